"""The node that an artist drops first: few knobs, sizes, strength, regions, transparency, and what it says."""

import json
from dataclasses import replace
from urllib.error import HTTPError

import numpy as np
import pytest
import torch
from PIL import Image
from places import DEMO

from op4ksr_core.geometry import Megapixels, Part, Scale, Size
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.picture.convert import as_picture, as_tensor
from op4ksr_core.picture.read import read_picture
from op4ksr_core.picture.resample import lanczos
from op4ksr_core.pipeline.trial import plan_trial, without_margin
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS, with_strength
from op4ksr_core.wishes import Wishes, with_wishes

SIZE = {"size_mode": "scale", "size": 4.0}


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def graph(picture="small.png", image=("load", 0), **changes):
    inputs = {"image": list(image), "preset": "auto", "strength": 1.0, "seed": 0} | SIZE | changes
    return {
        "load": node("LoadImage", image=picture),
        "up": node("OP4KSR_UpscaleTo4K", **inputs),
        "save": node("SaveImage", images=["up", 0], filename_prefix="up"),
        "before": node("SaveImage", images=["up", 2], filename_prefix="before"),
        "report": node("PreviewAny", source=["up", 3]),
    }


@pytest.fixture
def small(server):
    """A crop of the bundled photo, 64x48, in the server's input folder."""
    path = server.base / "input" / "small.png"
    Image.open(DEMO).crop((200, 100, 264, 148)).save(path)
    return read_picture(path).rgb


def result(server, wanted, name="save"):
    return read_picture(server.picture(server.run(wanted), name))


def error_of(server, wanted):
    status = server.run(wanted)["status"]
    assert status["status_str"] == "error"
    return str(status["messages"])


def test_few_knobs_are_seen(server):
    """Where a version has advanced inputs; 0.3.64 shows them all."""
    info = server.get("/object_info/OP4KSR_UpscaleTo4K")["OP4KSR_UpscaleTo4K"]
    inputs = info["input"]["required"] | info["input"].get("optional", {})
    sockets = ("IMAGE", "MASK", "MODEL", "VAE", "CONDITIONING")
    seen = [name for name, (kind, *rest) in inputs.items() if kind not in sockets and not rest[0].get("advanced")]
    if server.version == "0.3.64":
        pytest.skip("0.3.64 has no advanced inputs")
    knobs = "preset size_mode size strength seed protect denoise region content creativity resemblance"
    assert seen == knobs.split()
    assert "esrgan" in info["search_aliases"]


def test_a_preset_is_the_command_lines(server, embedded, small):
    entry = server.run(graph())
    shown = read_picture(server.picture(entry, "save")).rgb
    assert float((shown - embedded(small, 4)).abs().max()) * 255 <= 2
    before = read_picture(server.picture(entry, "before")).rgb
    assert float((before - lanczos(small, Size(192, 256)).clamp(0, 1)).abs().max()) * 255 <= 1


def test_auto_says_what_it_took_and_a_contradiction_is_named(server, small):
    """The bundled MODEL says that it was trained at sigma 0.3 and theta 100; UltraFlux has its own embedding."""
    parts = {"model": ["model", 0], "conditioning": ["model", 1], "vae": ["model", 2]}

    def report(preset):
        wanted = graph(preset=preset, **parts)
        wanted["model"] = node("OP4KSR_LoadEmbedded")
        return str(server.run(wanted)["outputs"]["report"])

    assert "Preset embedded: the weights say that they were trained for it." in report("auto")
    said = report("ultraflux")
    assert "theta is 10000.0, but the adapter was trained with 100.0" in said and "scheme" in said


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_strength_is_the_cores(server, embedded, small, strength):
    expected = embedded(small, 4, settings=with_strength(PRESETS["embedded"], strength))
    assert float((result(server, graph(strength=strength)).rgb - expected).abs().max()) * 255 <= 2


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"size_mode": "long side", "size": 100}, (75, 100)),
        ({"size_mode": "short side", "size": 60}, (60, 80)),
        ({"size_mode": "megapixels", "size": 0.01}, (87, 115)),
        ({"size_mode": "fit", "width": 100, "height": 100}, (75, 100)),
        ({"size_mode": "crop", "width": 100, "height": 100}, (100, 100)),
        ({"size_mode": "pad", "width": 100, "height": 100}, (100, 100)),
        ({"size_mode": "long side", "size": 4096, "size_like": ["other", 0]}, (68, 90)),
        ({"size_mode": "crop", "size_like": ["other", 0]}, (50, 90)),
    ],
)
def test_sizes(server, small, changes, size):
    wanted = graph(**changes)
    wanted["other"] = node("EmptyImage", width=90, height=50, batch_size=1, color=0)
    wanted["mask"] = node("MaskToImage", mask=["up", 1])
    wanted["saved mask"] = node("SaveImage", images=["mask", 0], filename_prefix="bars")
    entry = server.run(wanted)
    assert read_picture(server.picture(entry, "save")).rgb.shape[-2:] == size
    bars = read_picture(server.picture(entry, "saved mask")).rgb
    assert bars.shape[-2:] == size and float(bars.max()) == (changes["size_mode"] == "pad")


def test_a_region_is_kept_as_lanczos_has_it(server, small):
    mask = Image.new("RGB", (64, 48), "white")
    mask.paste((0, 0, 0), (0, 0, 32, 48))
    mask.save(server.base / "input" / "region.png")
    wanted = graph(strength_mask=["region", 0])
    wanted["region"] = node("LoadImageMask", image="region.png", channel="red")
    shown, whole = result(server, wanted).rgb, result(server, graph()).rgb
    plain = lanczos(small, Size(192, 256)).clamp(0, 1)
    assert float((shown - plain)[..., :120].abs().max()) * 255 <= 1
    assert float((shown - whole)[..., 180:].abs().max()) * 255 <= 1
    assert float((whole - plain).abs().max()) * 255 > 8  # the model does something


def test_painted_can_mean_keep(server, small):
    """As MaskEditor paints: the same region, the other way round."""
    mask = Image.new("RGB", (64, 48), "black")
    mask.paste((255, 255, 255), (0, 0, 32, 48))
    mask.save(server.base / "input" / "painted.png")
    shown = {}
    for meaning, invert in (("keep there", False), ("restore there", True)):
        wanted = graph(strength_mask=["mask", 0], painted_means=meaning)
        wanted["mask"] = node("LoadImageMask", image="painted.png", channel="red")
        if invert:
            wanted["invert"] = node("InvertMask", mask=["mask", 0])
            wanted["up"]["inputs"]["strength_mask"] = ["invert", 0]
        shown[meaning] = result(server, wanted).rgb
    assert torch.equal(shown["keep there"], shown["restore there"])
    plain = lanczos(small, Size(192, 256)).clamp(0, 1)
    assert float((shown["keep there"] - plain)[..., :120].abs().max()) * 255 <= 1


def test_another_meaning_is_refused_before_the_run(server, small):
    with pytest.raises(HTTPError) as refused:
        server.run(graph(painted_means="blue"))
    assert "painted_means" in refused.value.read().decode()


def test_a_part_is_tried_as_the_core_does(server, embedded, small):
    """The middle, then the box around what is painted; the report says which part it is."""
    large = server.base / "input" / "large.png"
    Image.open(DEMO).crop((0, 0, 200, 160)).save(large)
    mask = Image.new("RGB", (100, 80), "black")
    mask.paste((255, 255, 255), (10, 20, 30, 45))
    mask.save(server.base / "input" / "part.png")
    picture, whole = read_picture(large).rgb, Scale(4).frame(Size(160, 200))
    for region, part in (("middle", Part(52, 32, 96, 96)), ("painted", Part(20, 40, 40, 50))):
        wanted = graph("large.png", region=region, strength_mask=["mask", 0], painted_means="restore there")
        wanted["mask"] = node("LoadImageMask", image="part.png", channel="red")
        if region == "middle":
            del wanted["up"]["inputs"]["strength_mask"]
        entry = server.run(wanted)
        trial = plan_trial(whole, part, 32)
        may_act = read_picture(server.base / "input" / "part.png").rgb[:, :1] if region == "painted" else None
        expected = without_margin(embedded.run(embedded.plan(trial.frame), picture, region=may_act), trial).rgb
        shown = read_picture(server.picture(entry, "save")).rgb
        assert shown.shape[-2:] == (4 * part.height, 4 * part.width)
        assert float((shown - expected).abs().max()) * 255 <= 2
        report = str(entry["outputs"]["report"])
        assert str(part) in report and f"{part.size} -> {shown.shape[-1]}x{shown.shape[-2]} px" in report


def test_a_picture_painted_all_over_is_no_part(server, small):
    wanted = graph(region="painted", strength_mask=["white", 0])
    wanted["white"] = node("SolidMask", value=1.0, width=9, height=7)
    entry = server.run(wanted)
    assert read_picture(server.picture(entry, "save")).rgb.shape[-2:] == (192, 256)
    assert "Only the part" not in str(entry["outputs"]["report"])


def test_a_content_is_the_cores_and_what_is_set_wins(server, embedded, small):
    preset = PRESETS["embedded"]
    expected = embedded(small, 4, settings=with_wishes(preset, Wishes("portrait"), "embedded")[0])
    entry = server.run(graph(content="portrait"))
    shown = read_picture(server.picture(entry, "save")).rgb
    assert float((shown - expected).abs().max()) * 255 <= 2
    assert "Content portrait: strength 0.75, protect faces." in str(entry["outputs"]["report"])
    assert torch.equal(
        result(server, graph(content="photo", strength=0.5)).rgb, result(server, graph(strength=0.5)).rgb
    )


def test_creativity_and_resemblance_are_the_cores_and_the_report_says_what_they_set(server, embedded, small):
    wishes = Wishes(creativity=0.5, resemblance=0.5)
    settings, told = with_wishes(PRESETS["embedded"], wishes, "embedded")
    entry = server.run(graph(creativity=0.5, resemblance=0.5, seed=3))
    shown = read_picture(server.picture(entry, "save")).rgb
    assert float((shown - embedded(small, 4, settings=settings)).abs().max()) * 255 <= 2
    said = str(entry["outputs"]["report"])
    assert len(told) == 2 and all(line in said for line in told) and "The seed 3 changes nothing" in said


def with_passed(wanted, source=("up", 6)):
    return wanted | {"passed": node("PreviewAny", source=list(source))}


def told(entry, name):
    return entry["outputs"][name]["text"][0]


def test_what_passes_the_check_says_so_and_is_not_run_again(server, small):
    entry = server.run(with_passed(graph(rerun=True)))
    assert told(entry, "passed") == "True" and "again" not in told(entry, "report")


def test_what_does_not_pass_is_run_again_at_half_the_strength(server, random_weights):
    connected = {"model": ["files", 0], "vae": ["files", 1], "conditioning": ["prompt", 0], "preset": "op4ksr"}

    def ran(**changes):
        return server.run(with_passed(graph("ramp.png", **connected | changes) | random_weights))

    first, again, weak = ran(), ran(rerun=True), ran(strength=0.5)
    assert told(first, "passed") == "False" and "lattice of 16 px" in told(first, "report")
    assert told(again, "passed") == "True" and "Run again at 0.5 times the strength" in told(again, "report")
    assert "again" not in told(first, "report") + told(weak, "report")
    pictures = [read_picture(server.picture(entry, "save")).rgb for entry in (first, again, weak)]
    assert torch.equal(pictures[1], pictures[2]) and not torch.equal(pictures[0], pictures[1])


def test_a_rerun_needs_the_check(server, small):
    assert "lattice_check" in error_of(server, graph(rerun=True, lattice_check=False))


@pytest.mark.parametrize(("limits", "passed"), [({}, "False"), ({"max_score": 1.0}, "True")])
def test_the_inspector_says_whether_a_picture_is_within_the_limits(server, limits, passed):
    wave = torch.cos(2 * torch.pi * torch.arange(256) / 16)
    path = server.base / "input" / f"lattice_{passed}.png"
    as_picture((0.5 + 4 / 255 * (wave + wave[:, None])).expand(3, -1, -1)).save(path)
    wanted = {
        "load": node("LoadImage", image=path.name),
        "look": node("OP4KSR_Inspect", image=["load", 0], periods="16", search=True, **limits),
    }
    assert told(server.run(with_passed(wanted, ("look", 6))), "passed") == passed


def report_of(server, wanted):
    return server.run(wanted)["outputs"]["report"]["text"][0]


def with_embedded(wanted):
    """The same graph with the embedded MODEL, through a node that clones it, its VAE and its prompt connected."""
    wanted["model"] = node("OP4KSR_LoadEmbedded")
    wanted["rope"] = node("OP4KSR_RopeTheta", model=["model", 0], preset="OP4KSR", theta=100.0, scheme="plain")
    wanted["up"]["inputs"] |= {"model": ["rope", 0], "conditioning": ["model", 1], "vae": ["model", 2]}
    return wanted


def test_auto_takes_the_preset_that_the_model_wants(server, small):
    """The mark goes along with a clone, and the report says what was chosen and why."""
    alone, connected = server.run(graph()), server.run(with_embedded(graph()))
    assert torch.equal(
        read_picture(server.picture(alone, "save")).rgb, read_picture(server.picture(connected, "save")).rgb
    )
    assert "Preset embedded: the model is the bundled one." in str(alone["outputs"]["report"])
    assert "Preset embedded: the weights say that they were trained for it." in str(connected["outputs"]["report"])
    assert "Preset" not in report_of(server, graph(preset="embedded"))


def test_a_seed_that_draws_nothing_is_said(server, small):
    assert "The seed 7 changes nothing" in report_of(server, graph(seed=7))
    assert "seed" not in report_of(server, graph(seed=0))
    noisy = report_of(server, with_embedded(graph(preset="ultraflux", seed=7)))
    assert "seed" not in noisy


def test_four_channels_in_four_out(server, small):
    image = Image.open(DEMO).crop((200, 100, 264, 148)).convert("RGBA")
    alpha = Image.new("L", image.size, 0)
    alpha.paste(255, (16, 12, 48, 36))
    image.putalpha(alpha)
    image.save(server.base / "input" / "rgba.png")
    wanted = graph("rgba.png", image=("join", 0))
    wanted["join"] = node("JoinImageWithAlpha", image=["load", 0], alpha=["load", 1])
    found = result(server, wanted).alpha
    assert found.shape[-2:] == (192, 256)
    assert float(found[..., 52:140, 68:188].min()) == 1  # opaque, exactly
    clear = found.clone()
    clear[..., 40:152, 56:200] = 0
    assert float(clear.max()) == 0  # transparent, exactly


def test_the_node_says_what_it_did(server, small):
    text = server.run(graph())["outputs"]["report"]["text"][0]
    assert text.startswith("64x48 -> 256x192 px, 48 tokens, ") and "about 0.1 GB at most (estimated)" in text
    assert ("no lattice (score 0.00)" in text or "too faint to see" in text) and "Suppress" not in text
    assert "lattice" not in server.run(graph(lattice_check=False))["outputs"]["report"]["text"][0]


def test_previews_on_the_way(server, small):
    """After the encoder the picture that came in, after the step its middle, after the decoder the result."""
    import io

    import websockets.sync.client

    pictures, wanted = [], graph(strength=0.95)
    address = server.url.replace("http", "ws") + "/ws?clientId=previews"
    with websockets.sync.client.connect(address, max_size=None) as socket:
        server.post("/prompt", {"prompt": wanted, "client_id": "previews"})
        while True:
            message = socket.recv(timeout=120)
            if isinstance(message, bytes):
                if int.from_bytes(message[:4], "big") == 1:
                    pictures.append(Image.open(io.BytesIO(message[8:])).resize((64, 48)))
                continue
            if json.loads(message)["type"] in ("execution_success", "execution_error"):
                break
    assert len(pictures) == 3
    for shown in pictures:  # the whole picture is within the middle here, so that all three look like it
        assert float((as_tensor(shown) - small[0]).abs().mean()) < 0.05


def test_windows_as_in_the_core(server, small):
    settings = replace(PRESETS["embedded"], window=256)
    expected = Upscaler.from_pretrained(EMBEDDED, settings=settings)(small, 10)
    shown = result(server, graph(size=10.0, window=256)).rgb
    assert float((shown - expected).abs().max()) * 255 <= 2
    assert float((result(server, graph(size=10.0)).rgb - expected).abs().max()) * 255 > 1


def test_the_newer_and_the_older_node_agree(server, small):
    wanted = graph()
    inputs = {"image": ["load", 0], "long_side": 0, "scale": 4.0, "sigma_mid": 0.3, "steps": 1, "guidance": 1.0}
    embedded = PRESETS["embedded"]
    inputs |= {"theta": 0.0, "colour": embedded.colour, "fidelity": embedded.fidelity, "noise": 0.0, "seed": 0}
    wanted["up"] = node("OP4KSR_Upscale", vae_factor="16", compensation=embedded.compensation, **inputs)
    assert torch.equal(result(server, wanted).rgb, result(server, graph()).rgb)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mask": ["m", 0]}, "9x7 px, the IMAGE 64x48. mask is the IMAGE's transparency: connect"),
        ({"size_mode": "crop", "width": 0, "height": 100}, "got 0x100"),
        ({"size_mode": "scale", "size": 4096.0}, "got 4096. For px choose size_mode long side"),
        ({"size_mode": "long side", "size": 4.0}, "A long side of 4 px: for 4 times the size choose size_mode scale"),
        ({"size_mode": "long side", "size": 100.5}, "whole number of px, got 100.5"),
        ({"size_mode": "scale", "size_like": ["load", 0]}, "another size_mode than scale"),
        ({"model": ["model", 0]}, "Connect conditioning and vae too"),
        ({"window": 64}, "got 64"),
        ({"region": "painted"}, "got no MASK"),
        ({"region": "painted", "strength_mask": ["load", 1]}, "got a MASK of 64x64 px without paint"),
        (
            {"preset": "omgsr", "model": ["model", 0], "conditioning": ["model", 1], "vae": ["model", 2]},
            "compresses 16 times; 8 is wanted",
        ),
    ],
)
def test_bad_input_is_one_line_with_the_remedy(server, small, changes, text):
    wanted = graph(**changes)
    wanted["m"] = node("SolidMask", value=1.0, width=9, height=7)
    wanted["model"] = node("OP4KSR_LoadEmbedded")
    assert text in error_of(server, wanted)


def test_both_outputs_of_one_load_image_are_taken(server, small):
    """An opaque picture's MASK is 64x64 zeros: no transparency, and no region to be left alone."""
    alone = result(server, graph())
    wired = graph(mask=["load", 1], strength_mask=["load", 1])
    found = result(server, wired)
    assert found.alpha is None and torch.equal(found.rgb, alone.rgb)


def test_a_hard_edged_strength_mask_of_any_size(server, small):
    path = server.base / "input" / "hard.png"
    Image.fromarray((np.indices((64, 64)).sum(0) // 8 % 2 * 255).astype(np.uint8)).save(path)
    Image.open(DEMO).crop((200, 100, 400, 250)).save(server.base / "input" / "wide.png")
    wanted = graph("wide.png", size=1.0, strength_mask=["hard", 0])
    wanted["hard"] = node("LoadImageMask", image="hard.png", channel="red")
    assert result(server, wanted).rgb.shape[-2:] == (150, 200)


def test_a_strength_mask_of_zeros_is_said(server, small):
    wanted = graph(strength_mask=["m", 0])
    wanted["m"] = node("SolidMask", value=0.0, width=9, height=7)
    run = server.run(wanted)
    assert "The strength mask is 0 everywhere" in str(run["outputs"]["report"])


def test_a_preset_without_its_weights_is_refused_before_the_run(server, small):
    with pytest.raises(HTTPError) as refused:
        server.run(graph(preset="op4ksr"))
    assert "The preset op4ksr needs its own weights" in refused.value.read().decode()


@pytest.mark.parametrize(
    ("changes", "value"),
    [({"size_mode": "long side", "size": 100.5}, "100.5"), ({"mask": ["m", 0]}, "9x7")],
    ids=["SettingError", "ImageError"],
)
def test_an_error_is_a_sentence_and_no_path(server, small, changes, value):
    wanted = graph(**changes)
    wanted["m"] = node("SolidMask", value=1.0, width=9, height=7)
    [shown] = [data for name, data in server.run(wanted)["status"]["messages"] if "error" in name]
    assert shown["exception_type"] == "OP4KSR" and value in shown["exception_message"]
    assert "/" not in shown["exception_message"] and "Error" not in shown["exception_message"]


def test_pictures_of_different_sizes_in_one_list(server, embedded):
    """A folder, through core's own list loader (0.33): each picture at its own size, the model loaded once."""
    if server.version == "0.3.64":
        pytest.skip("0.3.64 has no node that gives a list of unequal pictures")
    folder = server.base / "input" / "mixed"
    folder.mkdir(exist_ok=True)
    for name, box in (("a.png", (0, 0, 40, 30)), ("b.png", (100, 100, 124, 148))):
        Image.open(DEMO).crop(box).save(folder / name)
    wanted = graph(image=("folder", 0))
    wanted["folder"] = node("LoadImageDataSetFromFolder", folder="mixed")
    saved = server.run(wanted)["outputs"]["save"]["images"]
    for name, shown in zip(("a.png", "b.png"), saved, strict=True):
        expected = embedded(read_picture(folder / name).rgb, 4)
        found = read_picture(server.base / "output" / shown["filename"]).rgb
        assert float((found - expected).abs().max()) * 255 <= 2


def test_the_sizes_meant_by_a_mode_are_the_cores():
    assert Megapixels(0.01).frame(Size(48, 64)).target == Size(87, 115)
