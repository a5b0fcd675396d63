"""Links to templates under the names that they had before they were prefixed still open."""

from pathlib import Path

import server
from aiohttp import web

PREFIX = "op4ksr_"
RENAMED = (
    "2k_omgsr_flux", "4k_quickstart", "4k_step_by_step", "4k_ultraflux_op4ksr", "4k_ultraflux_refine",
    "generate_then_4k", "inspect_and_sweep",
)  # fmt: skip


def redirect_templates() -> None:
    """Where ComfyUI serves this pack's templates, the old names answer with the new ones' address."""
    running = getattr(server.PromptServer, "instance", None)
    if running is None:  # imported without a server
        return
    templates = f"/api/workflow_templates/{Path(__file__).parents[1].name}"
    for name in RENAMED:
        for ending in ("json", "jpg"):
            running.app.router.add_get(f"{templates}/{name}.{ending}", _to(f"{templates}/{PREFIX}{name}.{ending}"))


def _to(address: str):
    async def answer(request: web.Request) -> web.Response:
        raise web.HTTPMovedPermanently(address)

    return answer
