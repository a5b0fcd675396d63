"""Links to templates under the names that they had before they were prefixed still open."""

from pathlib import Path
from typing import Any

PREFIX = "op4ksr_"
RENAMED = (
    "2k_omgsr_flux", "4k_quickstart", "4k_step_by_step", "4k_ultraflux_op4ksr", "4k_ultraflux_refine",
    "generate_then_4k", "inspect_and_sweep",
)  # fmt: skip


def redirect_templates() -> None:
    """Makes ComfyUI's server answer the old addresses with the new ones, once and before it starts."""
    import server  # late: it imports all of ComfyUI, which a script that imports the nodes need not have

    running = getattr(server.PromptServer, "instance", None)
    if running is None or running.app.router.frozen:
        return
    templates = f"/api/workflow_templates/{Path(__file__).parents[1].name}"
    known = {resource.canonical for resource in running.app.router.resources()}
    for name in RENAMED:
        for ending in ("json", "jpg"):
            old = f"{templates}/{name}.{ending}"
            if old not in known:
                running.app.router.add_get(old, _to(server.web, f"{templates}/{PREFIX}{name}.{ending}"))


def _to(web: Any, address: str):
    """A handler; `web` is aiohttp's module as the server has it."""

    async def answer(request: object) -> None:
        raise web.HTTPMovedPermanently(address)

    return answer
