"""The periodicity inspector as nodes."""

from dataclasses import replace

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ..op4ksr_core.errors import ImageError, SettingError
from ..op4ksr_core.lattice.inspector import ap_loss, inspect, worst
from ..op4ksr_core.lattice.report import draw_report, mask, overlay, sentences
from ..op4ksr_core.lattice.suppress import dithered, suppress
from ..op4ksr_core.pipeline.quality_check import Limits
from .convert import to_bchw, to_image
from .inputs import advanced, setting_input
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
            ["lattice", "grid", "grid artifact", "moire", "fft", "pattern", "quality check"],
            description="Finds the faint lattice that a decoder or one-step transformer may leave, and texture drawn "
            "into soft areas: how strong, and where. Connect before for the sharper verdict.",
            inputs=[
                io.Image.Input("image", tooltip="At least 32 px a side; of a batch, each picture is inspected."),
                io.String.Input(
                    "periods", default="8, 16, 32", tooltip="Periods in px, 4 to 128, whose strength the report gives."
                ),
                io.Boolean.Input(
                    "search", default=True, tooltip="On: any period from 4 to 128 px is looked for. Off: those alone."
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Ground truth or the input: L_AP is measured against it; what it explains is not judged.",
                ),
                io.Image.Input(
                    "before",
                    optional=True,
                    tooltip="The small picture before upscaling, or its plain enlargement: only what was added to it "
                    "is judged.",
                ),
                advanced(setting_input("max_score", of=Limits(), optional=True)),
                advanced(setting_input("max_texture", of=Limits(), optional=True)),
            ],
            outputs=[
                io.Float.Output(display_name="score", tooltip="0 none to 1 strong; of a batch, the worst."),
                io.Int.Output(display_name="period", tooltip="In px, rounded; 0 where there is none."),
                io.String.Output(display_name="report", tooltip="What was found, in plain sentences."),
                io.Image.Output(display_name="picture", tooltip="Spectrum, autocorrelation, heat map and verdict."),
                io.Mask.Output(display_name="heat map", tooltip="Local strength of the lattice, full at 2/255."),
                io.Image.Output(
                    display_name="overlay",
                    tooltip="The picture in grey, the lattice in red, texture in soft areas in blue.",
                ),
                io.Boolean.Output(display_name="passed", tooltip="Whether every picture is within the limits."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image,
        periods: str,
        search: bool,
        reference=None,
        before=None,
        max_score: float = Limits().max_score,
        max_texture: float = Limits().max_texture,
    ) -> io.NodeOutput:
        limits = Limits(max_score, max_texture)
        pictures, wanted = to_bchw(image), periods_of(periods)
        truths = matching(reference, len(pictures))
        references = truths if before is None else matching(before, len(pictures))
        found = []
        bar = comfy.utils.ProgressBar(len(pictures))
        for x, y, truth in zip(pictures, references, truths, strict=True):
            comfy.model_management.throw_exception_if_processing_interrupted()
            one = inspect(x, y, wanted, search)
            if before is not None:
                one = replace(one, ap_loss=None if truth is None else ap_loss(x, truth))
            found.append(one)
            bar.update(1)
        first = worst(found)
        reports = [
            " ".join([f"Picture {n}: {one.verdict}, score {one.score:.2f}.", *sentences(one)])
            for n, one in enumerate(found, 1)
        ]
        return io.NodeOutput(
            first.score,
            round(first.period),
            "\n".join(reports),
            to_image(torch.stack([draw_report(x, one) for x, one in zip(pictures, found, strict=True)])),
            torch.stack([mask(one, pictures.shape[-2:]) for one in found]),
            to_image(torch.stack([overlay(x, one) for x, one in zip(pictures, found, strict=True)])),
            all(map(limits.passes, found)),
        )


def matching(image: torch.Tensor | None, count: int) -> list[torch.Tensor | None]:
    """One reference (3, h, w) per picture, None without any. Raises ImageError where the counts differ."""
    if image is None:
        return [None] * count
    references = to_bchw(image)
    if len(references) not in (1, count):
        raise ImageError(f"There are {count} pictures and {len(references)} references; give one, or as many.")
    return list(references.expand(count, -1, -1, -1))


class SuppressLattice(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "Suppress",
            "Suppress lattice (OP4KSR)",
            ["remove pattern", "remove grid", "grid", "moire", "stripes", "descreen", "grid artifact", "notch filter"],
            description="Removes a lattice that the inspector finds, and nothing else: a picture without one comes "
            "back as it is. Noise of one 8-bit step keeps rounding from bringing a faint lattice back.",
            inputs=[
                io.Image.Input("image", tooltip="At least 32 px a side."),
                io.Image.Input(
                    "before",
                    optional=True,
                    tooltip="The small picture before upscaling: nothing that it explains is touched.",
                ),
                io.Boolean.Input(
                    "calm_mesh",
                    default=False,
                    optional=True,
                    tooltip="Also calm a mesh in areas that are soft in before.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="Without the lattice."),
                io.String.Output(display_name="report", tooltip="What was found and removed."),
            ],
        )

    @classmethod
    def execute(cls, image, before=None, calm_mesh: bool = False) -> io.NodeOutput:
        if calm_mesh and before is None:
            raise SettingError("calm_mesh needs the small picture: connect it to before, or switch calm_mesh off.")
        out, lines = [], []
        bar = comfy.utils.ProgressBar(len(image))
        to_bchw(image)  # refuses what is no picture
        references = matching(before, len(image))
        for x, small in zip(image.movedim(-1, 1).float(), references, strict=True):  # alpha, if there is any, stays
            comfy.model_management.throw_exception_if_processing_interrupted()
            found = inspect(x, small)
            mesh = found.mesh if calm_mesh and found.mesh.found else None
            treated = found.lattice is not None or mesh is not None
            out.append(dithered(suppress(x, found.lattice, small, mesh)) if treated else x)
            change = float((out[-1] - x).abs().mean()) * 255
            done = f"Removed: {change:.2f}/255 a pixel." if treated else "Nothing was changed."
            lines.append(f"{found.reason} {found.note} {done}".replace("  ", " "))
            bar.update(1)
        return io.NodeOutput(to_image(torch.stack(out)), "\n".join(lines))
