"""The embedded model's three stages and its export, each a command.

    python -m op4ksr_core.training.embedded vae     --run runs/embedded --steps 3500
    python -m op4ksr_core.training.embedded flow    --run runs/embedded --steps 1500
    python -m op4ksr_core.training.embedded onestep --run runs/embedded --steps 4000
    python -m op4ksr_core.training.embedded export  --run runs/embedded --to op4ksr_core/assets/embedded

Runs on CUDA when there is one, else on the CPU. Every stage continues from its last checkpoint, so
a run of any length can be cut into pieces with --minutes. Losses are taken on the picture that is
shown, after back-projection: the low-resolution band comes from the LR picture, and the latents are
spent on what it lacks.
"""

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from op4ksr_core.geometry import Size
from op4ksr_core.lattice.autocorrelation import autocorrelation_loss
from op4ksr_core.model import flow
from op4ksr_core.model.precision import half_is_fast
from op4ksr_core.model.rope import RotaryEmbedding
from op4ksr_core.model.vae import decode, encode, make_f16
from op4ksr_core.picture.colour import back_project
from op4ksr_core.picture.resample import resize
from op4ksr_core.settings import RopeSettings
from op4ksr_core.train.degradation import EMBEDDED, degrade
from op4ksr_core.train.losses.lrr import latent_refinement_loss
from op4ksr_core.train.losses.wavelet import wavelet_loss
from recipes.pictures import HELD_OUT, PicturePool, photo

VAE_CONFIG: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [32, 64, 128, 128],
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
    "sample_size": 4096,
}
DIT_CONFIG: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 128,
    "num_attention_heads": 2,
    "joint_attention_dim": 64,
    "pooled_projection_dim": 64,
    "guidance_embeds": False,
    "axes_dims_rope": [16, 56, 56],
}
PROMPT_TOKENS = 4


@dataclass(frozen=True)
class Recipe:
    """Settings of one stage; printed at its start and kept in its checkpoint."""

    steps: int
    batch: int
    crop: int
    learning_rate: float
    theta: float = 100.0
    sigma_mid: float = 0.3
    fidelity: float = 1.0
    mse: float = 10.0
    l1: float = 1.0
    wavelet: float = 0.25
    periodicity: float = 10.0
    refinement: float = 0.02
    raw: float = 0.1
    kl: float = 1e-4
    train_decoder: bool = False
    ema: float = 0.998
    scenes: int = 600
    photo_share: float = 0.5
    seed: int = 0


RECIPES = {
    "vae": Recipe(steps=3500, batch=8, crop=128, learning_rate=5e-4, periodicity=0.0),
    "flow": Recipe(steps=1500, batch=16, crop=256, learning_rate=5e-4, theta=10_000.0),
    # The paper freezes the decoder. This one is small enough to follow: after 200 steps that gave 0.02 dB on the
    # shown held-out photo and 1.1 dB on the raw decode.
    "onestep": Recipe(steps=4000, batch=4, crop=256, learning_rate=3e-4, train_decoder=True),
}


class EmbeddedModel(nn.Module):
    """F16 VAE, FLUX transformer and learned prompt; `hr_encoder` is the VAE's encoder before stage 3."""

    vae: Any
    dit: Any
    latent_shift: Tensor
    latent_scale: Tensor

    def __init__(self, theta: float):
        from diffusers import AutoencoderKL, FluxTransformer2DModel

        super().__init__()
        self.vae = make_f16(AutoencoderKL(**VAE_CONFIG))
        self.dit = FluxTransformer2DModel(**DIT_CONFIG)
        self.dit.pos_embed = RotaryEmbedding(RopeSettings(theta=theta))
        nn.init.zeros_(self.dit.proj_out.weight)
        nn.init.zeros_(self.dit.proj_out.bias)
        self.prompt = nn.Parameter(torch.randn(1, PROMPT_TOKENS, DIT_CONFIG["joint_attention_dim"]) * 0.1)
        self.pooled = nn.Parameter(torch.randn(1, DIT_CONFIG["pooled_projection_dim"]) * 0.1)
        self.hr_encoder = copy.deepcopy(self.vae.encoder).requires_grad_(False)
        # Mean and deviation of the HR latents, measured after the VAE stage.
        self.register_buffer("latent_shift", torch.zeros(()))
        self.register_buffer("latent_scale", torch.ones(()))

    def apply_latent_statistics(self) -> None:
        self.vae.register_to_config(shift_factor=float(self.latent_shift), scaling_factor=float(self.latent_scale))

    def encode_hr(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            mean = self.hr_encoder(x * 2 - 1).chunk(2, dim=1)[0]
        return (mean - self.latent_shift) * self.latent_scale

    def velocity(self, z: Tensor, sigma: Tensor) -> Tensor:
        """v(z, sigma) with the learned prompt; sigma is (B,)."""
        return flow.transformer_velocity(self.dit, z, sigma, self.prompt, self.pooled)

    def restore(self, lr: Tensor, size: Size, sigma_mid: float) -> tuple[Tensor, Tensor]:
        """LR picture -> (z_LR, raw decoded picture of `size`)."""
        z_lr = encode(self.vae, resize(lr, size)).float()
        sigma = torch.full((len(lr),), sigma_mid, device=lr.device)
        return z_lr, decode(self.vae, z_lr - sigma_mid * self.velocity(z_lr, sigma)).float()


def picture_loss(shown: Tensor, raw: Tensor, hr: Tensor, recipe: Recipe) -> Tensor:
    """Losses on the shown picture, plus a little on the raw decode so that fidelity 0 is a picture too."""
    loss = recipe.mse * F.mse_loss(shown, hr) + recipe.l1 * F.l1_loss(shown, hr)
    loss = loss + recipe.wavelet * wavelet_loss(shown, hr) + recipe.raw * F.l1_loss(raw, hr)
    return loss + recipe.periodicity * autocorrelation_loss(shown, hr) if recipe.periodicity else loss


def vae_loss(model: EmbeddedModel, hr: Tensor, recipe: Recipe, seed: int) -> Tensor:
    """Reconstruction through the back-projection, with a weak KL pull on the posterior."""
    mean, log_variance = model.vae.encoder(hr * 2 - 1).float().chunk(2, dim=1)
    log_variance = log_variance.clamp(-30, 20)
    z = mean + _normal_like(mean, seed) * torch.exp(0.5 * log_variance)
    raw = (model.vae.decoder(z) * 0.5 + 0.5).float()
    lr = resize(hr, Size(hr.shape[-2] // 4, hr.shape[-1] // 4))
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    return picture_loss(back_project(raw, lr, recipe.fidelity), raw, hr, recipe) + recipe.kl * kl


def flow_loss(model: EmbeddedModel, hr: Tensor, recipe: Recipe, seed: int) -> Tensor:
    """Flow matching on HR latents, sigma logit-normal."""
    z = model.encode_hr(hr).float()
    noise = _normal_like(z, seed)
    sigma = torch.sigmoid(_normal_like(z[:, 0, 0, 0], seed + 1))
    s = sigma[:, None, None, None]
    return F.mse_loss(model.velocity((1 - s) * z + s * noise, sigma), noise - z)


def onestep_loss(model: EmbeddedModel, hr: Tensor, recipe: Recipe, seed: int) -> Tensor:
    """One step from the LR latent under degradation: picture losses, L_AP and L_vae."""
    lr = _degraded(hr, seed)
    z_lr, raw = model.restore(lr, Size(*hr.shape[-2:]), recipe.sigma_mid)
    shown = back_project(raw, lr, recipe.fidelity)
    z_hr = model.encode_hr(hr).float()
    refinement = latent_refinement_loss(z_lr, z_hr, _normal_like(z_hr, seed + 1), recipe.sigma_mid)
    return picture_loss(shown, raw, hr, recipe) + recipe.refinement * refinement


LOSSES: dict[str, Callable[[EmbeddedModel, Tensor, Recipe, int], Tensor]] = {
    "vae": vae_loss,
    "flow": flow_loss,
    "onestep": onestep_loss,
}


def _degraded(hr: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    with torch.autocast(hr.device.type, enabled=False):
        return torch.stack([degrade(picture, generator, EMBEDDED) for picture in hr])


def _normal_like(x: Tensor, seed: int) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)


def trainable(model: EmbeddedModel, stage: str, recipe: Recipe) -> list[nn.Parameter]:
    """The parameters that a stage moves; all others are frozen."""
    model.requires_grad_(False)
    parts: dict[str, list[nn.Module | nn.Parameter]] = {
        "vae": [model.vae],
        "flow": [model.dit, model.prompt, model.pooled],
        "onestep": [model.vae.encoder, model.dit, model.prompt, model.pooled],
    }
    chosen = parts[stage] + ([model.vae.decoder] if recipe.train_decoder else [])
    for part in chosen:
        part.requires_grad_(True)
    return [p for p in model.parameters() if p.requires_grad]


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up over 100 steps, then a cosine to a twentieth."""
    progress = min(1.0, step / recipe.steps)
    return (
        recipe.learning_rate * min(1.0, (step + 1) / 100) * (0.05 + 0.95 * (0.5 + 0.5 * math.cos(math.pi * progress)))
    )


@torch.no_grad()
def validate(model: EmbeddedModel, stage: str, recipe: Recipe, device: torch.device) -> str:
    """PSNR on the held-out photo: the shown picture, and the back-projection without any model."""
    hr = photo(HELD_OUT)[None, :, :512, :512].to(device)
    if stage == "flow":
        return f"held-out loss {float(flow_loss(model, hr, recipe, 7)):.4f}"
    size = Size(*hr.shape[-2:])
    if stage == "vae":
        lr = resize(hr, Size(size.height // 4, size.width // 4))
        raw = decode(model.vae, encode(model.vae, hr)).float()
    else:
        lr = _degraded(hr, 7)
        raw = model.restore(lr, size, recipe.sigma_mid)[1]
    shown, plain = back_project(raw, lr, recipe.fidelity), back_project(resize(lr, size), lr, 1.0)
    return "held-out PSNR " + ", ".join(
        f"{name} {-10 * math.log10(float(F.mse_loss(x.clamp(0, 1), hr))):.2f}"
        for name, x in (("shown", shown), ("raw", raw), ("no model", plain))
    )


def save(path: Path, state: dict) -> None:
    """Writes a checkpoint so that a kill at any moment leaves the old one or the new one."""
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    temporary.replace(path)


def start_model(run: Path, stage: str, theta: float) -> EmbeddedModel:
    """A new model, with the averaged weights of the stage before where there is one."""
    model = EmbeddedModel(theta)
    before = {"vae": None, "flow": "vae", "onestep": "flow", "export": "onestep"}[stage]
    if before:
        path = run / f"{before}.pt"
        if not path.exists():
            raise SystemExit(f"{path} is missing: run the {before} stage first.")
        model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu")["ema"])
    return model


def measure_latents(model: EmbeddedModel, pool: PicturePool) -> None:
    """After the VAE stage: freezes a copy of its encoder and measures the latents' shift and scale."""
    model.hr_encoder.load_state_dict(model.vae.encoder.state_dict())
    model.latent_shift.zero_()
    model.latent_scale.fill_(1)
    z = model.encode_hr(pool.crops(32, 256, seed=-1))
    model.latent_shift.copy_(z.mean())
    model.latent_scale.copy_(1 / z.std())


class StageRun:
    """One stage under way: the model, its average, the optimizer and the step, kept in `<run>/<stage>.pt`."""

    def __init__(self, stage: str, recipe: Recipe, run: Path, device: torch.device, pool: PicturePool):
        self.stage, self.recipe, self.device, self.pool = stage, recipe, device, pool
        self.checkpoint = run / f"{stage}.pt"
        torch.manual_seed(recipe.seed)
        self.model = start_model(run, stage, recipe.theta).to(device)
        if stage == "flow" and not self.checkpoint.exists():
            measure_latents(self.model, pool)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.parameters = trainable(self.model, stage, recipe)
        self.optimizer = torch.optim.AdamW(self.parameters, betas=(0.9, 0.99), weight_decay=1e-4)
        self.step = 0
        if self.checkpoint.exists():
            self._resume()
        for model in (self.model, self.average):
            model.apply_latent_statistics()

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def save(self) -> None:
        state = {"step": self.step, "model": self.model.state_dict(), "ema": self.average.state_dict()}
        recipe = json.dumps(asdict(self.recipe))
        save(self.checkpoint, state | {"optimizer": self.optimizer.state_dict(), "recipe": recipe})

    def advance(self) -> tuple[float, float]:
        """One optimizer step; its pictures and noise depend on the seed and the step alone. (loss, gradient norm)."""
        recipe, seed = self.recipe, self.recipe.seed * 10_000_019 + self.step * 4
        hr = self.pool.crops(recipe.batch, recipe.crop, seed, recipe.photo_share)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, recipe)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half_is_fast(self.device)):
            loss = LOSSES[self.stage](self.model, hr, recipe, seed + 1)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.parameters, 1.0))
        if not math.isfinite(norm):
            raise SystemExit(
                f"{self.stage} step {self.step}: the gradient is {norm}; the last good checkpoint is {self.checkpoint}."
            )
        self.optimizer.step()
        update_average(self.average, self.model, min(recipe.ema, (self.step + 1) / (self.step + 10)))
        self.step += 1
        return loss.item(), norm


def train(stage: str, recipe: Recipe, run: Path, minutes: float, device: torch.device, stop_after: int) -> None:
    """Runs or continues one stage until step `stop_after`, its last step, or the minutes are used up."""
    started = time.time()
    run.mkdir(parents=True, exist_ok=True)
    state = StageRun(stage, recipe, run, device, PicturePool.make(recipe.scenes, 384, device, recipe.seed))
    print(f"{stage} from step {state.step}: {recipe}", flush=True)
    last = min(recipe.steps, stop_after)
    losses: list[float] = []
    while state.step < last and time.time() - started < minutes * 60:
        loss, norm = state.advance()
        losses = [*losses[-99:], loss]
        if state.step % 100 == 0 or state.step == last:
            report = (
                validate(state.average, stage, recipe, device) if state.step % 200 == 0 or state.step == last else ""
            )
            figures = f"{(time.time() - started) / 60:.1f} min loss {sum(losses) / len(losses):.4f} norm {norm:.3f}"
            print(f"{stage} {state.step}/{recipe.steps} {figures} {report}", flush=True)
            state.save()
    state.save()


def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of every weight."""
    with torch.no_grad():
        for a, b in zip(average.parameters(), model.parameters(), strict=True):
            a.lerp_(b, 1 - decay)


def export(run: Path, to: Path, recipe: Recipe) -> None:
    """Writes the trained model as the folder that `Upscaler.from_pretrained` reads, in float16."""
    from safetensors.torch import save_file

    model = start_model(run, "export", recipe.theta)
    model.apply_latent_statistics()
    parts = {"vae": (model.vae, "AutoencoderKL"), "transformer": (model.dit, "FluxTransformer2DModel")}
    for name, (part, kind) in parts.items():
        folder = to / name
        folder.mkdir(parents=True, exist_ok=True)
        weights = {key: value.half().contiguous() for key, value in part.state_dict().items()}
        save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
        config = VAE_CONFIG if name == "vae" else DIT_CONFIG
        config = {"_class_name": kind} | config
        if name == "vae":
            statistics = {"scaling_factor": float(model.latent_scale), "shift_factor": float(model.latent_shift)}
            config |= statistics | {"stride": 2}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    prompt = {"prompt_embeds": model.prompt.data.clone(), "pooled_prompt_embeds": model.pooled.data.clone()}
    save_file(prompt, to / "prompt.safetensors")
    print(f"Wrote {to}: {sum(f.stat().st_size for f in to.rglob('*.safetensors')) / 1e6:.1f} MB of weights.")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one stage or the export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*RECIPES, "export"])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded"), help="folder of the checkpoints")
    parser.add_argument(
        "--to", type=Path, default=Path("op4ksr_core/assets/embedded"), help="folder that export writes"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this long; run again to go on")
    parser.add_argument("--stop-after", type=int, default=sys.maxsize, help="stop at this step; run again to go on")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for name in ("steps", "batch", "crop", "scenes", "seed"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("learning_rate", "fidelity", "raw", "refinement", "periodicity", "wavelet", "photo_share", "theta"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float)
    parser.add_argument("--train-decoder", action=argparse.BooleanOptionalAction, default=None)
    args = vars(parser.parse_args(argv))
    stage = args["stage"]
    recipe = RECIPES["onestep" if stage == "export" else stage]
    recipe = replace(recipe, **{k: v for k, v in args.items() if v is not None and k in asdict(recipe)})
    if stage == "export":
        export(args["run"], args["to"], recipe)
    else:
        train(stage, recipe, args["run"], args["minutes"], torch.device(args["device"]), args["stop_after"])


if __name__ == "__main__":
    main()
