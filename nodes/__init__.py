"""The ComfyUI host: the only folder that imports ComfyUI."""

from comfy_api.latest import ComfyExtension, io

from ..op4ksr_core import errors
from .adapters import FeaturesConditioning, LoadAdapters, LoadUNetAdapter
from .compare import ImageCompare, is_missing
from .diagnostics import AnalyseRope, LatentView, ThetaSweep
from .inspect import InspectPeriodicity, SuppressLattice
from .load import LoadDiffusersFolder, LoadEmbedded, RopeTheta, SamplePhoto, ToF16
from .prompt import LoadPrompt, SavePrompt
from .sigma import EstimateSigma
from .step_nodes import Compensate, F16Decode, F16Encode, MidTimestepSampler, MidTimestepSigmas
from .template_routes import add_template_routes
from .upscale_nodes import UpscaleAllSettings, UpscaleTo4K
from .versions import check_version

NODES: list[type[io.ComfyNode]] = [
    SamplePhoto,
    LoadEmbedded,
    LoadDiffusersFolder,
    LoadAdapters,
    LoadUNetAdapter,
    FeaturesConditioning,
    RopeTheta,
    ToF16,
    F16Encode,
    MidTimestepSampler,
    MidTimestepSigmas,
    F16Decode,
    Compensate,
    UpscaleTo4K,
    UpscaleAllSettings,
    SavePrompt,
    LoadPrompt,
    EstimateSigma,
    InspectPeriodicity,
    SuppressLattice,
    AnalyseRope,
    ThetaSweep,
    LatentView,
]


def _speak_in_sentences() -> None:
    """ComfyUI shows an error as its class's module and name, then what it says: the module is this folder's path."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.Op4ksrError):
            kind.__module__, kind.__qualname__ = "builtins", "OP4KSR"


class Op4ksrExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        _speak_in_sentences()
        check_version()
        add_template_routes()
        return [*NODES, ImageCompare] if is_missing() else NODES
