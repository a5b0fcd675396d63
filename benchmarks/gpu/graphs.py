"""The graphs that the kit queues, in ComfyUI's API form. Needs Python's standard library alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SHOWN = "IMAGECOMPARE"
"""A widget that only shows something, which the server wants a value of all the same."""
LEAVE_GB = 3.0
"""GB that the ballast leaves free."""

Graph = dict[str, dict[str, Any]]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def from_template(path: Path, info: dict[str, Any]) -> Graph:
    """A saved graph without Reroutes as a prompt; `info` is the server's /object_info."""
    workflow = json.loads(path.read_text())
    sources = {link: [str(source), out] for link, source, out, *_ in workflow["links"]}
    graph = {}
    for saved in workflow["nodes"]:
        if saved["type"] == "MarkdownNote":
            continue
        declared = info[saved["type"]]["input"]
        kinds = {**declared.get("required", {}), **declared.get("optional", {})}
        names = [name for name, kind in kinds.items() if isinstance(kind[0], list) or kind[0] in WIDGETS]
        inputs = dict(zip(names, saved.get("widgets_values") or [], strict=True))
        inputs |= {slot["name"]: sources[slot["link"]] for slot in saved["inputs"] if slot["link"] is not None}
        inputs |= {name: "" for name, kind in kinds.items() if kind[0] == SHOWN}
        graph[str(saved["id"])] = node(saved["type"], **inputs)
    return graph


def quickstart(info: dict[str, Any], side: int) -> Graph:
    """The first template, with the embedded model, `side` px long."""
    graph = from_template(ROOT / "workflows" / "op4ksr_1_quickstart.json", info)
    upscale = next(entry for entry in graph.values() if entry["class_type"] == "OP4KSR_UpscaleTo4K")
    if "size" not in upscale["inputs"]:
        raise SystemExit(f"The quickstart's node has no input size: {sorted(upscale['inputs'])}.")
    upscale["inputs"]["size"] = side
    return graph


def vae_alone(side: int, leave_gb: float = 0.0) -> Graph:
    """Encode and decode by FLUX's VAE at 16x; before it a ballast that leaves `leave_gb` or, at 0, gives back."""
    return {
        "photo": node("OP4KSR_SamplePhoto"),
        "ballast": node("KitBallast", image=["photo", 0], leave_gb=leave_gb),
        "file": node("VAELoader", vae_name="flux_vae.safetensors"),
        "vae": node("OP4KSR_F16VAE", vae=["file", 0], head="centered"),
        "encode": node(
            "OP4KSR_Encode", image=["ballast", 0], vae=["vae", 0], scale=4.0, long_side=side, vae_factor="16"
        ),
        "decode": node("OP4KSR_Decode", latent=["encode", 0], vae=["vae", 0], colour="wavelet", fidelity=0.3),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="kit"),
    }


def step_by_step(side: int, file: str, leave_gb: float = 0.0) -> Graph:
    """Encode, one step of the full-width FLUX in `file`, decode."""
    graph = vae_alone(side, leave_gb)
    graph["flux"] = node("UNETLoader", unet_name=file, weight_dtype="default")
    graph["rope"] = node("OP4KSR_RopeTheta", model=["flux", 0], preset="OP4KSR", theta=100.0, scheme="plain")
    graph["prompt"] = node("OP4KSR_LoadPrompt", file="kit_prompt.safetensors")
    graph["step"] = node(
        "OP4KSR_Sampler",
        model=["rope", 0],
        conditioning=["prompt", 0],
        latent=["encode", 0],
        sigma_mid=0.3,
        steps=1,
        guidance=1.0,
        theta=0.0,
        noise=0.0,
        seed=0,
    )
    graph["decode"]["inputs"]["latent"] = ["step", 0]
    return graph


def graphs(side: int) -> dict[str, Callable[[dict[str, Any]], Graph]]:
    """Name -> graph of the server's /object_info. The short of memory comes last, as it may end the server."""
    made: dict[str, Callable[[dict[str, Any]], Graph]] = {"quickstart": lambda info: quickstart(info, side)}
    for kind in ("bf16", "e4m3", "scaled"):
        made[f"flux {kind}"] = lambda _, file=f"flux_{kind}.safetensors": step_by_step(side, file)
    made["vae"] = lambda _: vae_alone(side)
    made["short of memory"] = lambda _: step_by_step(side, "flux_bf16.safetensors", LEAVE_GB)
    return made
