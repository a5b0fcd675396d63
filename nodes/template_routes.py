"""What ComfyUI's server answers about our templates: the first one first, former names lead to today's, and
thumbnails are served.

The server lists a folder in the file system's order, and newer ones serve its graphs alone, without their thumbnails.
"""

import json
from pathlib import Path
from typing import Any

PREFIX = "op4ksr_"
PREFIXED = (
    "2k_omgsr_flux", "4k_step_by_step", "4k_ultraflux_op4ksr", "4k_ultraflux_refine", "generate_then_4k",
    "inspect_and_sweep",
)  # fmt: skip
RENAMED = {name: PREFIX + name for name in PREFIXED} | {
    "4k_quickstart": "op4ksr_1_quickstart",
    "op4ksr_4k_quickstart": "op4ksr_1_quickstart",
}
"""Former names -> today's."""


def add_template_routes() -> None:
    """Adds the routes once and before ComfyUI's server starts; does nothing outside a server."""
    import server  # late: it imports all of ComfyUI, which a script that imports the nodes need not have

    running = getattr(server.PromptServer, "instance", None)
    if running is None or running.app.router.frozen:
        return
    web, pack = server.web, Path(__file__).parents[1]
    templates = f"/api/workflow_templates/{pack.name}"
    routes = {path.name: _file(web, path) for path in sorted((pack / "workflows").glob("*.jpg"))}
    for former, name in RENAMED.items():
        for ending in ("json", "jpg"):
            routes[f"{former}.{ending}"] = _redirect(web, f"{templates}/{name}.{ending}")
    known = {resource.canonical for resource in running.app.router.resources()}
    new = {name: answer for name, answer in routes.items() if f"{templates}/{name}" not in known}
    for name, answer in new.items():
        running.app.router.add_get(f"{templates}/{name}", answer)
    if new:
        running.app.middlewares.append(_in_order(web, pack.name))


def _in_order(web: Any, pack: str):
    """A middleware that sorts our templates in the server's list of all packs' templates."""

    @web.middleware
    async def in_order(request: Any, handler: Any) -> Any:
        answer = await handler(request)
        if answer.status == 200 and request.path in ("/workflow_templates", "/api/workflow_templates"):
            listed = json.loads(answer.text)
            listed.get(pack, []).sort()
            answer.text = json.dumps(listed)
        return answer

    return in_order


def _redirect(web: Any, address: str):
    """A handler; `web` is aiohttp's module as the server has it."""

    async def answer(request: object) -> None:
        raise web.HTTPMovedPermanently(address)

    return answer


def _file(web: Any, path: Path):
    """A handler that sends the file."""

    async def answer(request: object) -> Any:
        return web.FileResponse(path)

    return answer
