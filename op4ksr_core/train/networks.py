"""The frozen networks that two losses need, from files that the user has."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WeightsError
from ..files import at_home
from .losses.adversarial import LEVELS, Discriminator, PatchCritic


def load_lpips(weights: str | Path) -> nn.Module:
    """LPIPS with VGG-16 from torchvision's weight file `vgg16-397923af.pth`; the linear layers come with `lpips`.

    Raises WeightsError where the file is not given, missing or another network's, or where `lpips` is not installed.
    """
    wanted = "LPIPS wants torchvision's VGG-16 weights, vgg16-397923af.pth (--lpips-weights FILE)"
    path = at_home(weights) if weights else None
    if path is None or not path.is_file():
        raise WeightsError(f"{wanted}; got {str(path) if path else 'no file'}. Or set the weight of lpips to 0.")
    try:
        import lpips
    except ImportError as error:
        raise WeightsError(
            "LPIPS needs two packages: pip install lpips torchvision. Or set its weight to 0."
        ) from error
    network: Any = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    state = torch.load(path, weights_only=True, map_location="cpu")
    renamed = {}
    for name in network.net.state_dict():
        number, part = name.split(".")[-2:]
        if f"features.{number}.{part}" not in state:
            raise WeightsError(f"{wanted}; {path} has no features.{number}.{part}.")
        renamed[name] = state[f"features.{number}.{part}"]
    network.net.load_state_dict(renamed)
    return network.requires_grad_(False).eval()


_FEATURES = "The adversarial loss wants a ConvNeXt folder of transformers, such as DINOv3's (--features FOLDER)"


def _features_folder(folder: str | Path) -> Path:
    path = at_home(folder) if folder else None
    if path is None or not (path / "config.json").is_file():
        raise WeightsError(f"{_FEATURES}; got {str(path) if path else 'none'}. Or set the weight of adversarial to 0.")
    return path


class _Stages(nn.Module):
    """The feature maps of a ConvNeXt backbone of transformers, one per stage."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        states = self.network(pixel_values=x, output_hidden_states=True).hidden_states
        return [state for state in states[1:] if state.ndim == 4][:LEVELS]


def meta_critic(critic: str, features: str) -> Discriminator | PatchCritic:
    """The shapes of the critic of that name on the meta device, from its folder's config.json alone. Raises
    WeightsError."""
    with torch.device("meta"):
        if critic == "patch":
            return PatchCritic()
        from transformers import AutoConfig, AutoModel

        path = _features_folder(features)
        stages = _Stages(AutoModel.from_config(AutoConfig.from_pretrained(path, local_files_only=True)))
        maps = stages(torch.zeros(1, 3, 64, 64))
        return Discriminator(stages, [x.shape[1] for x in maps])


def load_discriminator(folder: str | Path) -> Discriminator:
    """Heads on a ConvNeXt (DINOv3 or other) in transformers' layout: `config.json` and `model.safetensors`.

    Raises WeightsError where the folder is not given, is missing, or holds no network with feature maps.
    """
    path = _features_folder(folder)
    from transformers import AutoModel

    try:
        network = AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{_FEATURES}; {path} cannot be read ({error}).") from error
    stages = _Stages(network)
    with torch.no_grad():
        maps = stages(torch.zeros(1, 3, 64, 64))
    if not maps:
        raise WeightsError(f"{_FEATURES}; {path} gives no feature maps.")
    return Discriminator(stages, [x.shape[1] for x in maps])
