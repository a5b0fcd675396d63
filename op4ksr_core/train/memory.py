"""What a training needs per GPU, counted without running it: the model is built and called on torch's meta device.

Counted are the frozen weights, the trained weights with their gradients and AdamW's two moments (float32), and the
tensors that autograd keeps for the backward pass: all of them, or with gradient checkpointing the inputs of the blocks
and what the largest block keeps. Attention is taken to be fused (its score matrix is never kept). LoRA branches count
as float32, which autocast halves. So do a VAE and a UNet that are held in float32: for them the plan is an upper bound.
Of a transformer that is sharded over N processes an Nth counts, and two whole blocks, for one is fetched while another
runs. LPIPS and the critic count with their weights and what they keep: LPIPS of one window, the critic of the part that
it sees. Not counted: the runtime and the allocator's slack.
"""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..model.vae import make_f16
from ..weights.configs import FLUX_VAE, header_shapes, transformer_config, vae_config
from ..weights.files import find_weights
from ..weights.sources import Sources
from ..weights.unet_sources import UNetSources
from .losses.adversarial import Discriminator, PatchCritic
from .networks import meta_critic
from .precision import frozen_dtype
from .settings import TrainSettings
from .strategies.choose import UNetFamily, check_shardable, without_weights
from .strategies.flow import FlowStrategy
from .strategies.lora import regulariser_weights
from .strategies.protocol import Batch

GB = 1e9

Model = FlowStrategy | UNetFamily
"""What a plan is made for."""

_BYTES_OF_A_WEIGHT = {"adamw": 16.0, "adamw8bit": 10.0}
"""A float32 weight, its gradient, and two moments of 4 bytes or of 1."""
_BLOCKS = (
    "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
    "ResnetBlock2D",
    "BasicTransformerBlock",
    "UNetMidBlock2D",
    "DownEncoderBlock2D",
    "UpDecoderBlock2D",
)


@dataclass(frozen=True)
class TrainingPlan:
    """Bytes on one GPU for `per_device` pictures of `crop` px at once."""

    crop: int
    per_device: int
    frozen: float
    trained: float
    activations: float
    trained_parameters: int
    losses: float = 0.0
    """Of LPIPS and the critic: weights, and what is kept for the backward pass."""

    @property
    def total(self) -> float:
        return self.frozen + self.trained + self.activations + self.losses

    def __str__(self) -> str:
        return (
            f"crop {self.crop} px, {self.per_device} at once: frozen weights {self.frozen / GB:.1f} GB, "
            f"{self.trained_parameters / 1e6:.3g} M trained weights, gradients and moments {self.trained / GB:.1f} GB, "
            f"kept for the backward pass {self.activations / GB:.1f} GB, LPIPS and critic {self.losses / GB:.1f} GB; "
            f"{self.total / GB:.1f} GB in all"
        )


class _Shapes(nn.Module):
    """Stands for the position embedding, whose values do not matter here."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        table = torch.empty(len(ids), self.width, device=ids.device)
        return table, table


def meta_model(sources: Sources | UNetSources, settings: TrainSettings) -> Model:
    """The model that would be trained, without its weights: shapes come from the files' headers. Not for the stage
    compensation. Raises WeightsError."""
    if isinstance(sources, UNetSources):
        return without_weights(sources, settings)
    return meta_flow(sources, settings)


def meta_flow(sources: Sources, settings: TrainSettings) -> FlowStrategy:
    """`meta_model` of a FLUX transformer."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel

    dtype = frozen_dtype(settings)
    shapes, vae_shapes = header_shapes(sources.transformer), header_shapes(sources.vae)
    files = find_weights(sources.vae)
    strided = sources.f16 if sources.f16 is not None else int((files.config or {}).get("stride", 1)) == 2
    with torch.device("meta"):
        transformer: Any = FluxTransformer2DModel(**transformer_config(shapes, sources.transformer))
        vae: Any = AutoencoderKL(**vae_config(vae_shapes, FLUX_VAE | (files.config or {}), sources.vae))
        vae = make_f16(vae) if strided else vae
        for part in (transformer, vae):
            nn.Module.to(part, dtype)
        sequence, pooled = (part.to("meta") for part in sources.load_prompt())
        model = FlowStrategy(transformer, vae, (sequence, pooled), settings)
    return without_positions(model)


def without_positions(model: FlowStrategy) -> FlowStrategy:
    """On the meta device, with position embeddings that have only a shape."""
    model.transformer.pos_embed = _Shapes(sum(model.transformer.config.axes_dims_rope))
    model.prior_positions = model.transformer.pos_embed
    return model.to("meta")


def plan_training(model: Model, settings: TrainSettings, crop: int | None = None, shards: int = 1) -> TrainingPlan:
    """The plan for one GPU; `crop` instead of the settings' own; `shards` is over how many the transformer is shared.

    `model` comes from `meta_model`, or is a real one that is not sharded. Raises SettingError where it cannot be.
    """
    crop = crop or settings.crop
    trained = sum(p.numel() for p in (*model.trainable().values(), *regulariser_weights(model).values()))
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    of_a_weight = _BYTES_OF_A_WEIGHT[settings.optimizer]
    lora = of_a_weight * trained
    if shards > 1:
        check_shardable(model)
        transformer: Any = model.shardable
        learned = {*model.trainable().values(), *regulariser_weights(model).values()}
        shared = list(transformer.parameters())
        blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
        largest = max(sum(p.numel() * p.element_size() for p in block.parameters()) for block in blocks)
        gone = 1 - 1 / shards
        frozen += 2 * largest - gone * sum(p.numel() * p.element_size() for p in shared if p not in learned)
        lora -= gone * of_a_weight * sum(p.numel() for p in shared if p in learned)
    device = next(model.parameters()).device
    kept = kept_for_backward(model, model.inputs(_blank(settings, crop, device)), settings.checkpointing)
    losses = loss_networks(settings, crop)
    return TrainingPlan(crop, settings.per_device, float(frozen), lora, float(kept), trained, losses)


def _blank(settings: TrainSettings, crop: int, device: torch.device) -> Batch:
    """A batch of black pictures."""
    count, small = settings.per_device, crop // settings.scale
    return {
        "lr": torch.zeros(count, 3, small, small, device=device),
        "hr": torch.zeros(count, 3, crop, crop, device=device),
        "seed": torch.zeros(count, dtype=torch.int64),
    }


def loss_networks(settings: TrainSettings, crop: int) -> float:
    """Bytes of LPIPS and of the critic, where the settings give them a weight; a critic whose folder is not named yet
    counts nothing. Raises WeightsError where the folder is not there."""
    total = 0.0
    if settings.losses.lpips:
        side = min(crop, settings.lpips_window)
        with torch.device("meta"):
            total += _held_by(_vgg16(), torch.empty(2 * settings.per_device, 3, side, side))
    if settings.losses.adversarial and (settings.critic == "patch" or settings.features):
        side = min(crop, settings.gan_window or crop)
        critic = _critic(settings.critic, settings.features)
        trained = sum(p.numel() for p in critic.heads.parameters())
        shown = torch.empty(settings.per_device, 3, side, side, device="meta")
        total += _held_by(critic, shown) + 12.0 * trained  # gradient and two moments beside the weight
    return total


@cache
def _critic(critic: str, features: str) -> Discriminator | PatchCritic:
    """`meta_critic`, made once: a search for the largest crop asks for it up to sixteen times."""
    return meta_critic(critic, features)


def _held_by(network: nn.Module, shown: Tensor) -> float:
    """Bytes of a network's float32 weights, and of what autograd keeps where only the picture is learned from."""
    network.requires_grad_(False)
    counter = _Counter({p.untyped_storage()._cdata for p in network.parameters()})
    with counter.watching([]):
        network(shown.requires_grad_(True))
    return sum(4.0 * p.numel() for p in network.parameters()) + counter.total()


def _vgg16() -> nn.Sequential:
    """The convolutions of VGG-16 (arXiv 1409.1556, column D), which LPIPS looks through."""
    layers: list[nn.Module] = []
    before = 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [nn.MaxPool2d(2)] if layers else []
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
            before = width
    return nn.Sequential(*layers)


def largest_crop(model: Model, settings: TrainSettings, bytes_: float, most: int = 4096, shards: int = 1) -> int | None:
    """The largest multiple of 256 px up to `most` whose plan fits, or None."""
    sides = range(256, most + 1, 256)
    fitting = bisect_right(sides, bytes_, key=lambda crop: plan_training(model, settings, crop, shards).total)
    return sides[fitting - 1] if fitting else None


def kept_for_backward(model: Model, inputs: tuple[Any, ...], checkpointing: bool) -> int:
    """Bytes that autograd keeps in one forward pass; with checkpointing, inputs of blocks and the largest block's."""
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    counter = _Counter(weights)
    switched: list[Any] = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    for module in switched:
        module.gradient_checkpointing = False  # counted by hand, for recomputing hides what is kept
    try:
        blocks = _outermost(model) if checkpointing else []
        with counter.watching(blocks):
            model(*inputs)
    finally:
        for module in switched:
            module.gradient_checkpointing = True
    return counter.total()


def _outermost(model: nn.Module) -> list[nn.Module]:
    """Blocks that are checkpointed as one: transformer blocks, and the VAE's levels."""
    found: list[nn.Module] = []
    for module in model.modules():
        if type(module).__name__ in _BLOCKS and not any(module in set(outer.modules()) for outer in found):
            found.append(module)
    return found


class _Kept(torch.autograd.Function):
    """Keeps what fused attention keeps: query, key, value, result and a number per query. No backward.

    The values mean nothing.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out


class _FusedAttention(TorchFunctionMode):
    """Puts `_Kept` in attention's place: without a device to run on, torch would take the way that keeps the scores."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.nn.functional.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            return _Kept.apply(named["query"], named["key"], named["value"])
        return function(*args, **kwargs)


class _Counter:
    """Adds up saved tensors, each storage once: those outside of blocks, and by block."""

    def __init__(self, weights: set[int]):
        self.weights = weights
        self.outside: dict[int, tuple[Any, int]] = {}
        self.blocks: list[dict[int, tuple[Any, int]]] = []
        self.inputs = 0
        self.inside = False

    def total(self) -> int:
        """Bytes at the peak of the backward pass."""
        sizes = [sum(size for _, size in block.values()) for block in self.blocks]
        return sum(size for _, size in self.outside.values()) + self.inputs + max(sizes, default=0)

    @contextmanager
    def watching(self, blocks: list[nn.Module]) -> Iterator[None]:
        handles = []
        for block in blocks:
            handles.append(block.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(block.register_forward_hook(self._leave))
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda x: x), _FusedAttention():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.requires_grad]
        self.inputs += sum(x.numel() * x.element_size() for x in tensors)
        self.blocks.append({})
        self.inside = True

    def _leave(self, *_: Any) -> None:
        self.inside = False

    def _pack(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in self.weights:
            place = self.blocks[-1] if self.inside else self.outside
            place[storage._cdata] = (
                storage,
                storage.nbytes(),
            )  # the storage is held, so that its address stays its own
        return x
