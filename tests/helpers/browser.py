"""ComfyUI's own frontend in Chromium: workflows are loaded, read and queued as an artist would."""

import base64
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
        if not boxes:
            return
        left, top = (min(box[side] for box in boxes) for side in (0, 1))
        right, bottom = (max(box[side] for box in boxes) for side in (2, 3))
        self.page.evaluate(
            """([left, top, right, bottom]) => {
                const menus = {left: 70, top: 90, right: 20, bottom: 20}
                const width = innerWidth - menus.left - menus.right, height = innerHeight - menus.top - menus.bottom
                const view = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect()
                view.scale = Math.min(width / (right - left), height / (bottom - top))
                view.offset[0] = (menus.left - canvas.x + width / 2) / view.scale - (left + right) / 2
                view.offset[1] = (menus.top - canvas.y + height / 2) / view.scale - (top + bottom) / 2
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

    def add(self, name: str, x: float, y: float) -> str:
        """Looks for a node at a free spot of the canvas, as after a double click, and puts the first that is found
        there; returns its id."""
        before = self.page.evaluate("() => app.graph._nodes.length")
        search = self.page.locator("input:focus")
        for _ in range(5):  # a busy canvas takes the clicks for two
            self.page.mouse.dblclick(x, y)
            self.page.wait_for_timeout(1500)
            if search.count():
                break
        search.type(name)
        self.page.locator("[role=option], [data-testid=result-item]").filter(has_text=name).first.wait_for()
        self.page.wait_for_timeout(1000)  # the list is made again while one types
        self.page.keyboard.press("Enter")
        self.page.wait_for_function("(before) => app.graph._nodes.length > before", arg=before)
        self.page.wait_for_timeout(500)
        if not self.server.version.startswith("0.3."):  # newer frontends carry it with the mouse until a click
            self.page.mouse.move(x, y, steps=3)
            self.page.mouse.click(x, y)
        self.page.wait_for_timeout(1000)  # what comes next is no double click
        return str(self.page.evaluate("() => app.graph._nodes.at(-1).id"))

    def delete(self, *types: str) -> None:
        """Chooses the nodes of these types and deletes them."""
        self.page.evaluate(
            """async (types) => {
                app.canvas.selectItems(app.graph._nodes.filter((n) => types.includes(n.type)))
                await app.extensionManager.command.execute('Comfy.Canvas.DeleteSelectedItems')
            }""",
            types,
        )

    def drop(self, path: Path, x: float, y: float) -> None:
        """Drops a picture on the page, as from a folder of the desktop."""
        self.page.evaluate(
            """([data, name, x, y]) => {
                const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)), dataTransfer = new DataTransfer()
                dataTransfer.items.add(new File([bytes], name, {type: 'image/png'}))
                const event = {dataTransfer, bubbles: true, cancelable: true, clientX: x, clientY: y}
                for (const kind of ['dragenter', 'dragover', 'drop'])
                    document.elementFromPoint(x, y).dispatchEvent(new DragEvent(kind, event))
            }""",
            [base64.b64encode(path.read_bytes()).decode(), path.name, x, y],
        )

    def connect(self, source: str, output: str, target: str, into: str) -> None:
        """Pulls a link from an output to an input with the mouse; both must be in sight."""
        self.page.mouse.move(*self._slot(source, "outputs", output))
        self.page.mouse.down()
        self.page.mouse.move(*self._slot(target, "inputs", into), steps=10)
        self.page.wait_for_timeout(200)  # Vue nodes look for the nearest slot once a frame
        self.page.mouse.up()
        made = self.page.evaluate(
            """([source, target, into]) => {
                const {link} = app.graph.getNodeById(target).inputs.find((i) => i.name == into)
                return link != null && app.graph.links.get(link).origin_id == source
            }""",
            [source, target, into],
        )
        assert made, f"no link from {output} of {source} to {into} of {target}"

    def hover(self, node: str, name: str) -> None:
        """Rests the mouse on the name of an input or widget."""
        x, y = self._slot(node, "inputs", name)
        self.page.mouse.move(x + 30, y - 2)
        self.page.mouse.move(x + 30, y)

    def _slot(self, node: str, side: str, name: str) -> list[float]:
        """Where an input or output is on the page."""
        return self.page.evaluate(
            """([id, side, name]) => {
                const node = app.graph.getNodeById(id), number = node[side].findIndex((slot) => slot.name == name)
                const dot = document.querySelector(`[data-slot-key="${id}-${side.slice(0, -3)}-${number}"]`)
                const middle = (box) => [box.x + box.width / 2, box.y + box.height / 2]
                if (dot) return middle(dot.getBoundingClientRect())
                const place = side == 'inputs' ? node.getInputPos(number) : node.getOutputPos(number)
                const [x, y] = app.canvas.ds.convertOffsetToCanvas(place)
                const canvas = app.canvas.canvas.getBoundingClientRect()
                return [canvas.x + x, canvas.y + y]
            }""",
            [node, side, name],
        )

    def wait_for_picture(self, node: str, width: int, height: int) -> None:
        """Until a node shows pictures, each of this size in px."""
        shows = """([id, width, height]) => {
            const drawn = LiteGraph.vueNodesMode
                ? [...document.querySelectorAll(`[data-node-id="${id}"] img`)] : app.graph.getNodeById(id).imgs ?? []
            return drawn.length && drawn.every((i) => i.naturalWidth == width && i.naturalHeight == height)
        }"""
        self.page.wait_for_function(shows, arg=[node, width, height], timeout=30_000)

    def text_shown(self, node: str) -> str:
        """What a node's text box says."""
        return self.page.evaluate(
            """(id) => {
                const box = document.querySelector(`[data-node-id="${id}"] textarea`)
                const widget = app.graph.getNodeById(id).widgets[0]
                return (box ?? widget.element ?? widget).value
            }""",
            node,
        )

    def shoot(self, name: str) -> None:
        """Screenshots at two sizes, for a person to look at, in the folder ARTIST_SHOTS where that is set."""
        if folder := os.environ.get("ARTIST_SHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.mouse.move(800, 5)  # no tooltip
            for width, height in ((1280, 720), (1600, 900)):
                self.page.set_viewport_size({"width": width, "height": height})
                self.page.wait_for_timeout(500)
                self.show_all()
                self.page.screenshot(path=Path(folder) / f"{name}-{width}x{height}.png")

    def run(self, timeout: float = 300) -> dict:
        """Queues what is shown, through the frontend; returns the history entry. The page is blank afterwards:
        its drawing takes a core."""
        return self._run(timeout, leave=True)

    def run_and_stay(self, timeout: float = 300, button=None) -> dict:
        """As `run`, or by a button of the page, and the page shows the results, as an artist sees them."""
        entry = self._run(timeout, leave=False, button=button)
        shown = "(nodes) => nodes.every((node) => node in app.nodeOutputs)"
        self.page.wait_for_function(shown, arg=list(entry["outputs"]), timeout=60_000)
        self.page.wait_for_timeout(1500)  # pictures are loaded and make their boxes grow
        return entry

    def _run(self, timeout: float, leave: bool, button=None) -> dict:
        before = set(self.server.get("/history"))
        if button is None:
            self.page.evaluate("() => app.queuePrompt(0)")
        else:
            button.click()
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


def newest_options(comfyui: Path) -> list[str]:
    """A server's options for the newest frontend, where that is laid out and the version takes it."""
    static = Path(os.environ.get("COMFYUI_FRONTEND", FRONTEND_DIR)).expanduser()
    if not static.is_dir():
        warnings.warn(f"NO newest frontend at {static}: tests/README.md says how to lay it out", stacklevel=1)
        pytest.skip(f"NO newest frontend at {static} (set COMFYUI_FRONTEND)")
    if version_of(comfyui).startswith("0.3."):
        pytest.skip("the newest frontend is tried under newer servers alone")
    return ["--front-end-root", str(static)]


@pytest.fixture(scope="module")
def newest_server(comfyui, tmp_path_factory):
    """A server with nothing in its folders and the newest frontend."""
    with running_server(comfyui, tmp_path_factory.mktemp("newest"), newest_options(comfyui)) as server:
        yield server


@pytest.fixture(scope="module")
def newest_frontend(browser, newest_server):
    page = browser.new_page(viewport={"width": 1800, "height": 1000})
    yield Frontend(page, newest_server)
    page.close()


@pytest.fixture(scope="module", params=["own", "newest"])
def desk_server(request, comfyui, tmp_path_factory):
    """A server with nothing in its folders, with its own frontend and with the newest."""
    options = newest_options(comfyui) if request.param == "newest" else []
    with running_server(comfyui, tmp_path_factory.mktemp(request.param), options) as server:
        # A new profile opens the templates over the graph, and a tour over an app.
        server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.OnboardingCoachmarks.Seen": ["appMode"]})
        yield server


@pytest.fixture(params=[False, True], ids=["classic", "vue"])
def desk(request, browser, desk_server):
    """What an artist may sit at: each frontend, with classic nodes and with Vue nodes."""
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    frontend = Frontend(page, desk_server)
    frontend.draw_with_vue(request.param)
    yield frontend
    page.close()
