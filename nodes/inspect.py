"""The periodicity inspector as nodes."""

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ..op4ksr_core.errors import ImageError, SettingError
from ..op4ksr_core.geometry import Size
from ..op4ksr_core.lattice.inspector import inspect
from ..op4ksr_core.lattice.report import draw_report, mask, overlay, sentences
from ..op4ksr_core.lattice.suppress import dithered, suppress
from ..op4ksr_core.picture.resample import resize
from .convert import to_bchw, to_image
from .schema import node_schema


def periods_of(text: str) -> list[int]:
    """Whole numbers out of a comma-separated line. Raises SettingError."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise SettingError(
            f"Periods are whole numbers of px with commas between, like 8, 16, 32; got {text!r}."
        ) from None


class InspectPeriodicity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "Inspect",
            "Periodicity inspector (OP4KSR)",
            ["lattice", "grid artifact", "fft", "pattern", "quality check"],
            description="Finds the faint lattice that a decoder or one-step transformer may leave: its period, its "
            "strength, and where it is.",
            inputs=[
                io.Image.Input("image", tooltip="At least 32 px a side; of a batch, each picture is inspected."),
                io.String.Input(
                    "periods", default="8, 16, 32", tooltip="Periods in px, 4 to 128, whose strength the report tells."
                ),
                io.Boolean.Input(
                    "search", default=True, tooltip="On: any period from 4 to 128 px is looked for. Off: those alone."
                ),
                io.Image.Input(
                    "reference", optional=True, tooltip="Ground truth or the input: L_AP is measured against it."
                ),
            ],
            outputs=[
                io.Float.Output(display_name="score", tooltip="0 none to 1 strong; of a batch, the worst."),
                io.Int.Output(display_name="period", tooltip="In px, rounded; 0 where there is none."),
                io.String.Output(display_name="report", tooltip="What was found, in plain sentences."),
                io.Image.Output(display_name="picture", tooltip="Spectrum, autocorrelation, heat map and verdict."),
                io.Mask.Output(display_name="heat map", tooltip="Local strength of the lattice, full at 2/255."),
                io.Image.Output(display_name="overlay", tooltip="The picture in grey, the lattice in red."),
            ],
        )

    @classmethod
    def execute(cls, image, periods: str, search: bool, reference=None) -> io.NodeOutput:
        pictures, wanted = to_bchw(image), periods_of(periods)
        references = [None] * len(pictures) if reference is None else matching(to_bchw(reference), pictures)
        found = []
        bar = comfy.utils.ProgressBar(len(pictures))
        for x, y in zip(pictures, references, strict=True):
            comfy.model_management.throw_exception_if_processing_interrupted()
            found.append(inspect(x, y, wanted, search))
            bar.update(1)
        worst = max(found, key=lambda inspection: inspection.score)
        reports = [
            " ".join([f"Picture {n}: {one.verdict}, score {one.score:.2f}.", *sentences(one)])
            for n, one in enumerate(found, 1)
        ]
        return io.NodeOutput(
            worst.score,
            round(worst.period),
            "\n".join(reports),
            to_image(torch.stack([draw_report(x, one) for x, one in zip(pictures, found, strict=True)])),
            torch.stack([mask(one, pictures.shape[-2:]) for one in found]),
            to_image(torch.stack([overlay(x, one) for x, one in zip(pictures, found, strict=True)])),
        )


def matching(references: torch.Tensor, pictures: torch.Tensor) -> list[torch.Tensor]:
    """One reference per picture, enlarged to its size. Raises ImageError where the counts differ."""
    if len(references) not in (1, len(pictures)):
        raise ImageError(f"There are {len(pictures)} pictures and {len(references)} references; give one, or as many.")
    return list(resize(references, Size(*pictures.shape[-2:])).expand(len(pictures), -1, -1, -1))


class SuppressLattice(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "Suppress",
            "Suppress lattice (OP4KSR)",
            ["remove pattern", "descreen", "grid artifact", "notch filter"],
            description="Removes a lattice that the inspector finds, and nothing else: a picture without one comes "
            "back as it is. Noise of one 8-bit step keeps rounding from bringing a faint lattice back.",
            inputs=[io.Image.Input("image", tooltip="At least 32 px a side.")],
            outputs=[
                io.Image.Output(tooltip="Without the lattice."),
                io.String.Output(display_name="report", tooltip="What was found and removed."),
            ],
        )

    @classmethod
    def execute(cls, image) -> io.NodeOutput:
        out, lines = [], []
        bar = comfy.utils.ProgressBar(len(image))
        to_bchw(image)  # refuses what is no picture
        for x in image.movedim(-1, 1).float():  # alpha, if there is any, stays
            comfy.model_management.throw_exception_if_processing_interrupted()
            found = inspect(x)
            out.append(dithered(suppress(x, found.lattice)) if found.lattice else x)
            change = float((out[-1] - x).abs().mean()) * 255
            done = f"Removed: {change:.2f}/255 a pixel." if found.lattice else "Nothing was changed."
            lines.append(f"{found.reason} {done}")
            bar.update(1)
        return io.NodeOutput(to_image(torch.stack(out)), "\n".join(lines))
