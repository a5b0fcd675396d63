"""Stages 2 and 3: scores by models that the user has. Nothing is downloaded.

Stage 2: how degraded a picture is, by an exported PyTorch program (blur and noise apart, or one number), and LAION's
aesthetic score, a stack of linear layers over CLIP's picture embedding. Stage 3: the answer of a vision-language model,
local or behind an address that speaks OpenAI's chat completions; it sees crops of the picture's own px, for a reduced
view of 4K is always sharp.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..errors import WeightsError
from ..files import at_home
from ..geometry import Size
from ..picture.convert import as_picture
from ..picture.read import read_picture
from ..picture.resample import resize
from ..picture.tiles import stepped_starts

STAGE_2 = {"degradation": -1.0, "blur": -1.0, "noise": -1.0, "aesthetic": 1.0}
STAGE_3 = {"vision": 1.0}
"""The scores and which way is better."""

PROMPT = (
    "You judge a picture that is to train a super-resolution model. You see crops of it at its own pixels. Look at "
    "sharpness, noise, compression, exposure and texture. Answer with one line: `Score: N`, where N is a whole number "
    "from 0 (useless) to 100 (flawless)."
)

_CLIP_MEAN, _CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_TILE = 1024
"""px of a side that the degradation's program sees at once."""

_CROP, _CROPS = 512, 3
"""px and number of the crops that stage 3 shows."""


@dataclass(frozen=True)
class Models:
    """Files and folders of the models, and where they run. Raises WeightsError on one that is not there."""

    degradation: str | None = None
    clip: str | None = None
    aesthetic: str | None = None
    vision: str | None = None
    vision_model: str | None = None
    prompt: str = PROMPT
    device: str = "cpu"

    def check(self, stage: int) -> None:
        """Raises WeightsError unless all that the stage wants is there."""
        wanted = {
            2: {"--degradation": self.degradation, "--clip": self.clip, "--aesthetic": self.aesthetic},
            3: {"--vision": self.vision},
        }.get(stage, {})
        for option, path in wanted.items():
            if path is None:
                raise WeightsError(f"Stage {stage} wants a model: name it with {option}.")
            if option == "--vision" and is_address(path):
                if not self.vision_model:
                    raise WeightsError(f"{path} is an address: name the model there with --vision-model.")
                continue
            if not at_home(path).exists():
                raise WeightsError(f"There is no {path}, which {option} names.")


def judge_by_models(path: Path, models: Models) -> dict[str, float]:
    """Stage 2's scores of one picture; `blur` and `noise` are NaN where the program gives not two numbers, and
    `degradation` is the mean of what it gives. Raises ImageError, WeightsError."""
    rgb = read_picture(path).rgb.to(models.device)
    with torch.inference_mode():
        degrees = _degrees(rgb, _program(str(models.degradation), models.device))
        blur, noise = degrees.tolist() if len(degrees) == 2 else (float("nan"), float("nan"))
        scores = {"degradation": float(degrees.mean()), "blur": blur, "noise": noise}
        return scores | {"aesthetic": _aesthetic(rgb, models)}


def _degrees(rgb: Tensor, program: Any) -> Tensor:
    """What a program says of a picture, (N,): the mean over tiles of _TILE px, for it keeps whole feature maps."""
    height, width = rgb.shape[-2:]
    corners = [
        (top, left) for top in stepped_starts(height, _TILE, _TILE) for left in stepped_starts(width, _TILE, _TILE)
    ]
    said = [program(rgb[..., top : top + _TILE, left : left + _TILE]).float().flatten() for top, left in corners]
    return torch.stack(said).mean(0)


@lru_cache(maxsize=1)
def _program(path: str, device: str) -> Any:
    """A program from torch.export: (1, 3, H, W) in [0, 1] -> two numbers that grow with blur and noise, or another
    count, whose mean grows with the degradation."""
    try:
        return torch.export.load(at_home(path)).module().to(device)
    except Exception as error:  # a foreign or damaged file can fail in any way
        raise WeightsError(f"{path} is no program of torch.export ({type(error).__name__}: {error}).") from error


def _aesthetic(rgb: Tensor, models: Models) -> float:
    clip, layers = _clip(str(models.clip), models.device), _layers(str(models.aesthetic), models.device)
    embedding = clip(pixel_values=clip_input(rgb, clip.config.image_size)).image_embeds
    x = F.normalize(embedding.float(), dim=-1)
    for weight, bias in layers:
        x = F.linear(x, weight, bias)
    return float(x.mean())


def clip_input(rgb: Tensor, side: int) -> Tensor:
    """CLIP's view: the shorter side at `side` px, the middle square, its mean and deviation."""
    height, width = rgb.shape[-2:]
    ratio = side / min(height, width)
    small = resize(rgb, Size(max(side, round(height * ratio)), max(side, round(width * ratio)))).clamp(0, 1)
    top, left = ((length - side) // 2 for length in small.shape[-2:])
    mean, deviation = (small.new_tensor(v)[None, :, None, None] for v in (_CLIP_MEAN, _CLIP_DEVIATION))
    return (small[..., top : top + side, left : left + side] - mean) / deviation


@lru_cache(maxsize=1)
def _clip(folder: str, device: str) -> Any:
    from transformers import CLIPVisionModelWithProjection

    try:
        model: Any = CLIPVisionModelWithProjection.from_pretrained(folder, local_files_only=True)
        return model.to(device).eval()
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} is no CLIP folder of transformers ({error}).") from error


@lru_cache(maxsize=1)
def _layers(path: str, device: str) -> list[tuple[Tensor, Tensor | None]]:
    """The linear layers of LAION's predictor, in order; between them it has nothing but dropout."""
    from safetensors.torch import load_file

    try:
        state = load_file(at_home(path), device)
    except Exception as error:  # a foreign or damaged file can fail in any way
        raise WeightsError(
            f"{path} is no safetensors file ({error}). `op4ksr convert --to aesthetic` makes one of LAION's .pth."
        ) from error
    names = sorted(
        (name for name in state if name.endswith("weight")), key=lambda n: [int(k) for k in re.findall(r"\d+", n)]
    )
    if not names or state[names[-1]].shape[0] != 1:
        raise WeightsError(f"{path} is no stack of linear layers that ends in one number: {', '.join(state)}.")
    return [(state[name].float(), state.get(name[: -len("weight")] + "bias")) for name in names]


def judge_by_vision(path: Path, models: Models) -> dict[str, Any]:
    """Stage 3: the score, and the answer as it was given. Raises ImageError, WeightsError."""
    crops = native_crops(as_picture(read_picture(path).rgb[0]))
    if is_address(str(models.vision)):
        answer = _address()(str(models.vision), str(models.vision_model), models.prompt, crops)
        return {"vision": score_in(answer), "answer": answer}
    processor, model = _vision(str(models.vision), models.device)
    content = [*({"type": "image", "image": crop} for crop in crops), {"type": "text", "text": models.prompt}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device)
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=64, do_sample=False)
    answer = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0].strip()
    return {"vision": score_in(answer), "answer": answer}


def _address() -> Any:
    """What asks an address. Raises WeightsError in ComfyUI's archive, which has nothing that reaches the network."""
    try:
        from .address import ask
    except ImportError as error:
        raise WeightsError(
            "Addresses are not part of ComfyUI's archive: install op4ksr from its repository."
        ) from error
    return ask


def is_address(text: str) -> bool:
    """Whether stage 3's model is behind HTTP."""
    return text.startswith(("http://", "https://"))


def native_crops(image: Image.Image) -> list[Image.Image]:
    """The middle of the picture and its two busiest places, 512 px each or what there is, not resized."""
    side = min(_CROP, *image.size)
    grey = np.asarray(image.convert("L"), np.float32)
    rows, columns = (range(0, length - side + 1, side) for length in grey.shape)
    steps = {(t, x): float(np.abs(np.diff(grey[t : t + side, x : x + side])).mean()) for t in rows for x in columns}
    middle = ((grey.shape[0] - side) // 2, (grey.shape[1] - side) // 2)
    places = [middle, *sorted(steps, key=lambda p: (-steps[p], p))]
    chosen = list(dict.fromkeys(places))[:_CROPS]
    return [image.crop((x, t, x + side, t + side)) for t, x in chosen]


def score_in(answer: str) -> float:
    """The number of `Score: N`, NaN where there is none in 0 to 100: such pictures are reported, not guessed."""
    found = re.findall(r"score\s*[:=]\s*\**\s*(\d+(?:\.\d+)?)", answer, re.IGNORECASE)
    value = float(found[-1]) if found else float("nan")
    return value if 0 <= value <= 100 else float("nan")


@lru_cache(maxsize=1)
def _vision(folder: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, dtype="auto")
    except (OSError, ValueError, ImportError) as error:
        raise WeightsError(f"{folder} is no chat model with pictures that transformers can load ({error}).") from error
    return processor, model.to(device).eval()
