"""A CONDITIONING kept as a small file, so that the text encoders need not be loaded again."""

from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io
from safetensors.torch import save
from torch import Tensor

from ..op4ksr_core.errors import SettingError, WeightsError
from ..op4ksr_core.files import at_home, write_atomically
from ..op4ksr_core.weights.files import find_weights
from ..op4ksr_core.weights.prompt_files import TOKENS, load_prompt, load_tokens
from .schema import node_schema


def prompt_files() -> list[str]:
    """safetensors files in ComfyUI's input folder, as for stock Load Latent."""
    return sorted(path.name for path in Path(folder_paths.get_input_directory()).glob("*.safetensors"))


class SavePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "SavePrompt",
            "Save fixed prompt (OP4KSR)",
            ["save conditioning", "t5", "text embedding"],
            description="Writes a FLUX CONDITIONING (T5 sequence and pooled CLIP) to the output folder. "
            "Move the file to the input folder to load it again.",
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="From CLIP Text Encode with FLUX's text encoders."),
                io.String.Input(
                    "filename_prefix", default="prompts/op4ksr", tooltip="Below the output folder; a number is added."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, conditioning, filename_prefix: str) -> io.NodeOutput:
        if len(conditioning) != 1:
            raise SettingError(f"A fixed prompt is one CONDITIONING, not {len(conditioning)} combined ones.")
        sequence, extra = conditioning[0]
        pooled = extra.get("pooled_output")
        if pooled is None:
            raise SettingError("This CONDITIONING has no pooled output; FLUX needs one (use a FLUX text encoder).")
        _check_prompt(sequence, pooled)
        folder, name, counter, *_ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        tensors = {"prompt_embeds": sequence.float().contiguous(), "pooled_prompt_embeds": pooled.float().contiguous()}
        data = save(tensors, metadata={TOKENS: str(sequence.shape[1])})
        write_atomically(Path(folder) / f"{name}_{counter:05}_.safetensors", lambda file: file.write(data))
        return io.NodeOutput()


def _check_prompt(sequence: Tensor, pooled: Tensor) -> None:
    """Raises SettingError on what could not be loaded again."""
    for name, part, rank in (("sequence", sequence, 3), ("pooled output", pooled, 2)):
        if part.ndim != rank or len(part) != 1 or 0 in part.shape:
            wanted = "(1, tokens, width)" if rank == 3 else "(1, width)"
            raise SettingError(f"The {name} of a fixed prompt is {wanted}; this one is {list(part.shape)}.")
        if not bool(torch.isfinite(part).all()):
            raise SettingError(f"The {name} of this CONDITIONING holds NaN or infinity: look at the node that made it.")


class LoadPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "LoadPrompt",
            "Load fixed prompt (OP4KSR)",
            ["load conditioning", "t5", "text embedding"],
            description="Reads a prompt file (from Save fixed prompt, or `op4ksr embed-prompt`) from the input folder.",
            inputs=[io.Combo.Input("file", options=prompt_files(), tooltip="A .safetensors file in the input folder.")],
            outputs=[io.Conditioning.Output(tooltip="As it was saved.")],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        path = at_home(Path(folder_paths.get_input_directory()) / Path(file).name)
        if not path.is_file():
            raise WeightsError(f"There is no prompt file {file} in the input folder; there are {prompt_files()}.")
        if "pooled_prompt_embeds" not in find_weights(path).shapes():
            return io.NodeOutput([[torch.clone(load_tokens(path)), {}]])  # Stable Diffusion's
        sequence, pooled = load_prompt(path)
        return io.NodeOutput([[torch.clone(sequence), {"pooled_output": pooled}]])

    @classmethod
    def fingerprint_inputs(cls, file: str) -> float:
        """Changes with the file, so that a rewritten prompt is read again."""
        path = Path(folder_paths.get_input_directory()) / Path(file).name
        return path.stat().st_mtime if path.is_file() else 0.0
