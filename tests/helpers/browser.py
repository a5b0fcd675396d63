"""ComfyUI's own frontend in Chromium: workflows are loaded, read and queued as an artist would."""

import json
import os
import time
import warnings
from pathlib import Path

import pytest
from comfy_server import running_server, version_of

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def chromium() -> Path:
    """CHROMIUM names it, else /usr/bin/chromium."""
    return Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))


@pytest.fixture(scope="session")
def browser():
    """Chromium, or a skip with a loud line."""
    from playwright.sync_api import sync_playwright

    program = chromium()
    if not program.exists():
        warnings.warn(f"NO Chromium at {program}: set CHROMIUM to run the browser tests", stacklevel=1)
        pytest.skip(f"NO Chromium at {program} (set CHROMIUM)")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield running
        running.close()


class Frontend:
    """One page with the graph editor."""

    def __init__(self, page, server):
        self.page, self.server = page, server
        page.goto(server.url)
        page.wait_for_function("window.app?.graph && window.app.extensionManager", timeout=120_000)

    def draw_with_vue(self, vue: bool) -> None:
        """Switches between the classic canvas and Vue nodes ("Nodes 2.0"); frontends that have no Vue nodes stay.

        A test of the Vue nodes of 0.3.64 is skipped: they are a trial, which gives every node its least size.
        """
        if vue and self.server.version.startswith("0.3."):
            pytest.skip("Vue nodes were a trial in 0.3.64, which gave every node its least size")
        self.page.evaluate(
            """async (vue) => {
                try { await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', vue) } catch {}
            }""",
            vue,
        )

    def warnings(self) -> list[str]:
        """The texts of the notices and dialogs that are open."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll('.p-toast-message, .p-dialog, [role=alert]')]
                .map((e) => e.innerText.trim()).filter((text) => text)"""
        )

    def load(self, path: Path) -> list[dict]:
        """Opens a workflow; returns what is wrong: nodes of unknown type or marked red, and links that were dropped.

        A frontend that is still starting may open a graph of its own over ours, which is then opened again.
        """
        workflow = json.loads(path.read_text())
        types = sorted(node["type"] for node in workflow["nodes"])
        for _ in range(5):
            wrong = self._load(workflow)
            self.page.wait_for_timeout(300)
            if sorted(self.page.evaluate("() => app.graph._nodes.map((n) => n.type)")) == types:
                return wrong
        return [{"frontend": "it keeps opening another graph"}]

    def _load(self, workflow: dict) -> list[dict]:
        return self.page.evaluate(
            """async (workflow) => {
                await app.loadGraphData(workflow)
                const known = LiteGraph.registered_node_types
                const bad = app.graph._nodes.filter((n) => !known[n.type] || n.has_errors)
                const wrong = bad.map((n) => ({node: n.type}))
                const there = [...app.graph.links.values()].length
                return there == workflow.links.length ? wrong : [...wrong, {links: there}]
            }""",
            workflow,
        )

    def boxes(self) -> dict:
        """What is drawn: `nodes` (with their titles), `reroutes` and `groups`, each a list of (name, left, top, right,
        bottom). A Vue node is drawn higher than the graph says, so it is measured on the page."""
        return self.page.evaluate(
            """() => {
                const view = app.canvas.ds, [left, top] = [...view.offset]
                const canvas = app.canvas.canvas.getBoundingClientRect()
                const box = (of, title) =>
                    [of.pos[0], of.pos[1] - title, of.pos[0] + of.size[0], of.pos[1] + of.size[1]]
                const drawn = (node) => {
                    const shown = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect()
                    if (!shown) return box(node, node.type == 'Reroute' ? 0 : LiteGraph.NODE_TITLE_HEIGHT)
                    const across = (x) => Math.round((x - canvas.left) / view.scale - left)
                    const down = (y) => Math.round((y - canvas.top) / view.scale - top)
                    return [across(shown.left), down(shown.top), across(shown.right), down(shown.bottom)]
                }
                const named = (nodes) => nodes.map((n) => [`${n.id} ${n.type}`, ...drawn(n)])
                return {
                    nodes: named(app.graph._nodes.filter((n) => n.type != 'Reroute')),
                    reroutes: named(app.graph._nodes.filter((n) => n.type == 'Reroute')),
                    groups: app.graph._groups.map((g) => [g.title, ...box(g, 0)]),
                }
            }"""
        )

    def show_all(self) -> None:
        """Moves and scales the view so that the whole graph is beside the menus."""
        boxes = [box[1:] for kind in self.boxes().values() for box in kind]
        left, top = (min(box[side] for box in boxes) for side in (0, 1))
        right, bottom = (max(box[side] for box in boxes) for side in (2, 3))
        self.page.evaluate(
            """([left, top, right, bottom]) => {
                const menus = {left: 70, top: 90, right: 20, bottom: 20}
                const width = innerWidth - menus.left - menus.right, height = innerHeight - menus.top - menus.bottom
                const view = app.canvas.ds
                view.scale = Math.min(width / (right - left), height / (bottom - top))
                view.offset[0] = (menus.left + width / 2) / view.scale - (left + right) / 2
                view.offset[1] = (menus.top + height / 2) / view.scale - (top + bottom) / 2
                app.canvas.setDirty(true, true)
            }""",
            [left, top, right, bottom],
        )
        self.page.wait_for_timeout(1500)  # for the renderer

    def choose_language(self, language: str) -> None:
        """Switches and loads the page again, as the frontend asks for."""
        self.page.evaluate("(language) => app.extensionManager.setting.set('Comfy.Locale', language)", language)
        self.page.reload()
        self.page.wait_for_function("window.app?.graph && window.app.extensionManager", timeout=120_000)

    def set_widgets(self, values: dict) -> None:
        """Puts values into every widget of these names."""
        self.page.evaluate(
            """(values) => app.graph._nodes.flatMap((n) => n.widgets ?? [])
                .filter((w) => w.name in values).forEach((w) => { w.value = values[w.name] })""",
            values,
        )

    def run(self, timeout: float = 300) -> dict:
        """Queues what is shown, through the frontend; returns the history entry. The page is blank afterwards:
        its drawing takes a core."""
        return self._run(timeout, leave=True)

    def run_and_stay(self, timeout: float = 300) -> dict:
        """As `run`, and the page shows the results, as an artist sees them."""
        entry = self._run(timeout, leave=False)
        shown = "(nodes) => nodes.every((node) => node in app.nodeOutputs)"
        self.page.wait_for_function(shown, arg=list(entry["outputs"]), timeout=60_000)
        self.page.wait_for_timeout(1500)  # pictures are loaded and make their boxes grow
        return entry

    def _run(self, timeout: float, leave: bool) -> dict:
        before = set(self.server.get("/history"))
        self.page.evaluate("() => app.queuePrompt(0)")
        if leave:
            self.page.goto("about:blank")
        end = time.time() + timeout
        while time.time() < end:
            new = self.server.get("/history").keys() - before
            if new:
                return self.server.get(f"/history/{min(new)}")[min(new)]
            self.page.wait_for_timeout(300)
        raise TimeoutError(f"The workflow did not end within {timeout} s.")


@pytest.fixture
def frontend(browser, server):
    page = browser.new_page(viewport={"width": 1800, "height": 1000})
    yield Frontend(page, server)
    page.close()


FRONTEND_DIR = "~/frontends/newest/comfyui_frontend_package/static"


@pytest.fixture(scope="module")
def newest_server(comfyui, tmp_path_factory):
    """A server with nothing in its folders and the newest frontend, where that is laid out and the version takes it."""
    static = Path(os.environ.get("COMFYUI_FRONTEND", FRONTEND_DIR)).expanduser()
    if not static.is_dir():
        warnings.warn(f"NO newest frontend at {static}: tests/README.md says how to lay it out", stacklevel=1)
        pytest.skip(f"NO newest frontend at {static} (set COMFYUI_FRONTEND)")
    if version_of(comfyui).startswith("0.3."):
        pytest.skip("the newest frontend is tried under newer servers alone")
    with running_server(comfyui, tmp_path_factory.mktemp("newest"), ["--front-end-root", str(static)]) as server:
        yield server


@pytest.fixture(scope="module")
def newest_frontend(browser, newest_server):
    page = browser.new_page(viewport={"width": 1800, "height": 1000})
    yield Frontend(page, newest_server)
    page.close()
