"""The nodes in a real ComfyUI, by its own interface, against the headless pipeline on the same weights."""

import json
import urllib.error
from dataclasses import replace

import pytest
import torch
from PIL import Image
from places import DEMO
from safetensors.torch import save_file

from op4ksr_core.geometry import LongSide
from op4ksr_core.paths import EMBEDDED
from op4ksr_core.picture.convert import as_tensor
from op4ksr_core.picture.read import read_picture
from op4ksr_core.pipeline.upscaler import Upscaler
from op4ksr_core.settings import PRESETS, RopeSettings, UpscaleSettings

LOAD = {"class_type": "LoadImage", "inputs": {"image": "astronaut.png"}}
NODES = {
    "OP4KSR_SamplePhoto": [],
    "OP4KSR_LoadEmbedded": [],
    "OP4KSR_LoadDiffusers": ["folder", "vae"],
    "OP4KSR_LoadAdapters": ["model", "vae", "adapter", "model_strength", "vae_strength"],
    "OP4KSR_LoadUNetAdapter": ["model", "vae", "adapter", "strength"],
    "OP4KSR_FeaturesConditioning": ["features"],
    "OP4KSR_RopeTheta": ["model", "preset", "theta", "scheme"],
    "OP4KSR_F16VAE": ["vae", "head"],
    "OP4KSR_Encode": ["image", "vae", "scale", "long_side", "vae_factor"],
    "OP4KSR_Sampler": "model conditioning latent sigma_mid steps guidance theta noise seed window timestep".split(),
    "OP4KSR_Decode": ["latent", "vae", "colour", "fidelity", "reference"],
    "OP4KSR_Compensate": ["image", "reference", "compensation", "detail_network"],
    "OP4KSR_SavePrompt": ["conditioning", "filename_prefix"],
    "OP4KSR_LoadPrompt": ["file"],
    "OP4KSR_EstimateSigma": ["vae", "low_resolution", "high_resolution", "model"],
    "OP4KSR_Sigmas": ["sigma_mid", "steps", "noise"],
    "OP4KSR_Inspect": ["image", "periods", "search", "reference", "before", "max_score", "max_texture"],
    "OP4KSR_Suppress": ["image", "before", "calm_mesh"],
    "OP4KSR_RopeAnalysis": ["thetas", "scheme", "width", "height", "vae_factor", "model"],
    "OP4KSR_ThetaSweep": "image thetas sigmas long_side scale steps guidance colour fidelity".split()
    + ["noise", "seed", "vae_factor", "model", "vae", "conditioning"],
    "OP4KSR_LatentView": ["latent", "before"],
    "OP4KSR_Upscale": "image long_side scale sigma_mid steps guidance theta colour fidelity".split()
    + ["noise", "seed", "vae_factor", "mask", "model", "vae", "conditioning", "compensation"]
    + ["strength_mask", "window", "protect", "denoise", "painted_means", "detail_network"],
    "OP4KSR_UpscaleTo4K": "image preset size_mode size strength seed width height colour".split()
    + "lattice_check window mask strength_mask size_like model vae conditioning protect denoise painted_means".split()
    + ["region", "content", "creativity", "resemblance", "rerun"],
}
"""Frozen: saved workflows depend on these ids and on the order of the inputs. Append, never reorder."""


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


COLOUR, FIDELITY = PRESETS["embedded"].colour, PRESETS["embedded"].fidelity


NO_NOISE = {"noise": 0.0, "seed": 0}


def all_in_one(long_side=1024, image="1", **changes):
    options = {"long_side": long_side, "scale": 4.0, "colour": COLOUR, "fidelity": FIDELITY}
    options |= {"sigma_mid": 0.3, "steps": 1, "guidance": 1.0, "theta": 0.0} | NO_NOISE
    options |= {"vae_factor": "16", "compensation": PRESETS["embedded"].compensation} | changes
    return {
        "1": LOAD,
        "2": node("OP4KSR_Upscale", image=[image, 0], **options),
        "3": node("SaveImage", images=["2", 0], filename_prefix="all"),
    }


def step_by_step(long_side=1024, theta=0.0, rope=None, fidelity=FIDELITY, colour=COLOUR, compensation=0.0):
    graph = {
        "1": LOAD,
        "model": node("OP4KSR_LoadEmbedded"),
        "encode": node(
            "OP4KSR_Encode", image=["1", 0], vae=["model", 2], scale=4.0, long_side=long_side, vae_factor="16"
        ),
        "sample": node(
            "OP4KSR_Sampler",
            model=["rope" if rope else "model", 0],
            latent=["encode", 0],
            conditioning=["model", 1],
            sigma_mid=0.3,
            steps=1,
            guidance=1.0,
            theta=theta,
            **NO_NOISE,
        ),
        "decode": node(
            "OP4KSR_Decode",
            latent=["sample", 0],
            vae=["model", 2],
            colour=colour,
            fidelity=fidelity,
        ),
        "3": node("SaveImage", images=["decode", 0], filename_prefix="steps"),
    }
    if compensation:
        graph["more"] = node("OP4KSR_Compensate", image=["decode", 0], reference=["1", 0], compensation=compensation)
        graph["3"]["inputs"]["images"] = ["more", 0]
    if rope:
        graph["rope"] = node("OP4KSR_RopeTheta", model=["model", 0], **rope)
    return graph


@pytest.fixture(scope="module")
def headless(embedded, photo):
    return embedded(photo, LongSide(1024))


def _difference(server, graph, expected):
    shown = read_picture(server.picture(server.run(graph), "3")).rgb
    assert shown.shape == expected.shape
    return float((shown - expected).abs().max()) * 255


def test_ids_and_input_order_are_frozen(server):
    info = server.get("/object_info")
    for name, inputs in NODES.items():
        order = info[name]["input_order"]
        assert order.get("required", []) + order.get("optional", []) == inputs
    assert {name for name in info if name.startswith("OP4KSR_")} == set(NODES)


@pytest.mark.parametrize("graph", [all_in_one(), step_by_step(compensation=1.0)], ids=["one node", "step by step"])
def test_equals_the_headless_pipeline(server, headless, graph):
    assert _difference(server, graph, headless) <= 2


@pytest.mark.parametrize("single", [False, True], ids=["two folders", "one file"])
def test_adapters_act_as_headless(server, photo, single, tmp_path):
    from model_files import write_omgsr_adapters

    from op4ksr_core.weights.adapters import find_adapters, save_adapters
    from op4ksr_core.weights.loading import load_transformer, load_vae

    loras = server.base / "models" / "loras"
    folder = loras / "omgsr"
    if not folder.exists():
        write_omgsr_adapters(folder, load_transformer(EMBEDDED / "transformer"), load_vae(EMBEDDED / "vae"))
        save_adapters(loras / "both.safetensors", find_adapters(folder))
    settings = replace(PRESETS["embedded"], fidelity=0.0, compensation=0.0)
    expected = Upscaler.from_pretrained(EMBEDDED, adapters=[folder], adapter_scale=0.5, settings=settings)(
        photo, LongSide(512)
    )
    graph = step_by_step(long_side=512, fidelity=0.0)
    plain = _difference(server, graph, expected)
    name = "both.safetensors" if single else "omgsr"
    graph["lora"] = node(
        "OP4KSR_LoadAdapters", model=["model", 0], vae=["model", 2], adapter=name, model_strength=0.5, vae_strength=0.5
    )
    graph["encode"]["inputs"]["vae"] = graph["decode"]["inputs"]["vae"] = ["lora", 1]
    graph["sample"]["inputs"]["model"] = ["lora", 0]
    assert _difference(server, graph, expected) <= 2 < 10 < plain
    assert _difference(server, step_by_step(long_side=512, fidelity=0.0), expected) == plain  # the patches are gone


@pytest.fixture
def stand_in(server):
    """A small random UltraFlux on disk: guidance, mid attention, sharded, stride 2 in the VAE's config."""
    from builders import make_transformer, make_vae
    from model_files import write_model

    folder = server.base / "models" / "diffusers" / "stand-in"
    if not folder.exists():
        vae = make_vae(norm_num_groups=32, block_out_channels=[32, 32, 64, 64])
        write_model(folder, make_transformer(num_attention_heads=2), vae)
        make_transformer(num_attention_heads=2).save_pretrained(folder / "transformer", max_shard_size="1MB")
        (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
        (server.base / "input" / "prompt.safetensors").write_bytes((folder / "prompt.safetensors").read_bytes())
    return folder


def on_stand_in(graph, **sampler):
    """The step-by-step graph with the stand-in's MODEL, VAE and prompt."""
    graph["files"] = node("OP4KSR_LoadDiffusers", folder="stand-in")
    graph["prompt"] = node("OP4KSR_LoadPrompt", file="prompt.safetensors")
    graph["rope" if "rope" in graph else "sample"]["inputs"]["model"] = ["files", 0]
    graph["encode"]["inputs"]["vae"] = graph["decode"]["inputs"]["vae"] = ["files", 1]
    graph["sample"]["inputs"] |= {"conditioning": ["prompt", 0]} | sampler
    return graph


def test_a_sharded_diffusers_folder_equals_headless(server, stand_in, photo):
    settings = replace(PRESETS["ultraflux"], steps=2, sigma=0.4)
    expected = Upscaler.from_pretrained(stand_in, settings=settings)(photo, LongSide(512))
    ultraflux = {"preset": "UltraFlux", "theta": 1e4, "scheme": "plain"}
    graph = on_stand_in(
        step_by_step(512, rope=ultraflux, fidelity=0.0), sigma_mid=0.4, steps=2, guidance=4.0, noise=1.0
    )
    assert _difference(server, graph, expected) <= 2


def test_a_lone_transformer_goes_with_another_folders_vae(server, stand_in):
    """As UltraFlux-v1.1 is published: config.json and shards in one folder, no VAE."""
    import shutil

    lone = server.base / "models" / "diffusers" / "lone"
    if not lone.exists():
        shutil.copytree(stand_in / "transformer", lone)
    together = on_stand_in(step_by_step(256, fidelity=0.0))
    expected = read_picture(server.picture(server.run(together), "3")).rgb
    graph = on_stand_in(step_by_step(256, fidelity=0.0))
    graph["files"] = node("OP4KSR_LoadDiffusers", folder="lone")
    assert "lone has no vae. Connect one" in str(server.run(graph)["status"]["messages"])
    graph["whole"] = node("OP4KSR_LoadDiffusers", folder="stand-in")
    graph["files"]["inputs"]["vae"] = ["whole", 1]
    assert _difference(server, graph, expected) == 0


def test_theta_acts_on_the_sampler_and_on_the_model_alike(server, stand_in, photo):
    settings = UpscaleSettings(fidelity=0.0, rope=RopeSettings(theta=100.0))
    upscaler = Upscaler.from_pretrained(stand_in, settings=settings)
    changed = upscaler(photo, LongSide(512))
    flux = upscaler(photo, LongSide(512), settings=replace(settings, rope=RopeSettings(theta=10_000.0)))
    assert float((changed - flux).abs().max()) * 255 > 10
    bare = {"long_side": 512, "fidelity": 0.0, "colour": "none"}
    custom = {"preset": "custom", "theta": 100.0, "scheme": "plain"}
    assert _difference(server, on_stand_in(step_by_step(theta=100.0, **bare)), changed) <= 2
    assert _difference(server, on_stand_in(step_by_step(rope=custom, **bare)), changed) <= 2
    assert _difference(server, on_stand_in(step_by_step(**bare)), flux) <= 2  # the MODEL was left as it was


@pytest.mark.parametrize(("steps", "noise"), [(1, 0.0), (3, 0.0), (3, 1.0)])
def test_the_stock_sampler_with_our_sigmas_equals_our_node(server, steps, noise):
    graph = step_by_step(long_side=512, fidelity=0.0)
    graph["sample"]["inputs"] |= {"steps": steps, "noise": noise, "seed": 11}
    ours = read_picture(server.picture(server.run(graph), "3")).rgb
    graph |= {
        "sigmas": node("OP4KSR_Sigmas", sigma_mid=0.3, steps=steps, noise=noise),
        "noise": node("RandomNoise", noise_seed=11) if noise else node("DisableNoise"),
        "guider": node("BasicGuider", model=["model", 0], conditioning=["model", 1]),
        "sample": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["sigmas", 1],
            sigmas=["sigmas", 0],
            latent_image=["encode", 0],
        ),
    }
    assert _difference(server, graph, ours) == 0


def test_a_saved_prompt_loads_as_it_was(server):
    graph = {"model": node("OP4KSR_LoadEmbedded")}
    graph["save"] = node("OP4KSR_SavePrompt", conditioning=["model", 1], filename_prefix="prompts/fixed")
    assert server.run(graph)["status"]["status_str"] == "success"
    [saved] = (server.base / "output" / "prompts").glob("fixed_*.safetensors")
    (server.base / "input" / "fixed.safetensors").write_bytes(saved.read_bytes())
    expected = read_picture(server.picture(server.run(step_by_step(long_side=512)), "3")).rgb
    graph = step_by_step(long_side=512)
    graph["prompt"] = node("OP4KSR_LoadPrompt", file="fixed.safetensors")
    graph["sample"]["inputs"]["conditioning"] = ["prompt", 0]
    assert _difference(server, graph, expected) == 0


def test_sigma_is_estimated_as_in_the_core(server, embedded, photo):
    from op4ksr_core.geometry import Size
    from op4ksr_core.model.flow import estimate_sigma
    from op4ksr_core.model.vae import encode
    from op4ksr_core.picture.resample import resize

    low = resize(photo, Size(128, 128)).clamp(0, 1)
    Image.fromarray((low[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(server.base / "input" / "low.png")
    low = read_picture(server.base / "input" / "low.png").rgb
    with torch.inference_mode(), embedded.host.vae.use("resident") as vae:
        pair = encode(vae, photo), encode(vae, resize(low, Size(512, 512)))  # as the pipeline enlarges
    expected = estimate_sigma([pair])
    graph = {"1": LOAD, "low": node("LoadImage", image="low.png"), "model": node("OP4KSR_LoadEmbedded")}
    graph["sigma"] = node(
        "OP4KSR_EstimateSigma",
        vae=["model", 2],
        low_resolution=["low", 0],
        high_resolution=["1", 0],
        model=["model", 0],
    )
    graph["value"] = node("PreviewAny", source=["sigma", 0])
    graph["3"] = node("SaveImage", images=["sigma", 1], filename_prefix="sigma")
    entry = server.run(graph)
    shown = float(entry["outputs"]["value"]["text"][0])
    assert shown == pytest.approx(expected, abs=0.002) and 0.01 < shown < 0.99
    assert Image.open(server.picture(entry, "3")).size == (640, 400)


def test_transparency_goes_along(server):
    image = Image.open(DEMO).convert("RGBA").crop((200, 100, 240, 130))
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(server.base / "input" / "clear.png")
    graph = all_in_one(long_side=0)
    graph["1"] = node("LoadImage", image="clear.png")
    graph["2"]["inputs"]["mask"] = ["1", 1]
    graph["m"] = node("MaskToImage", mask=["2", 1])
    graph["3"] = node("SaveImage", images=["m", 0], filename_prefix="mask")
    mask = read_picture(server.picture(server.run(graph), "3")).rgb
    expected = 1 - read_picture(server.base / "input" / "clear.png").alpha
    assert mask.shape[-2:] == (120, 160)
    small = torch.nn.functional.interpolate(mask[:, :1], size=(30, 40), mode="area")
    assert float((small - expected).abs().max()) < 0.03


def test_a_set_of_models_is_whole(server):
    graph = all_in_one(long_side=256)
    graph |= {"model": node("OP4KSR_LoadEmbedded")}
    graph["2"]["inputs"]["model"] = ["model", 0]
    assert "Connect conditioning and vae too" in str(server.run(graph)["status"]["messages"])
    graph["2"]["inputs"] |= {"vae": ["model", 2], "conditioning": ["model", 1]}
    assert server.run(graph)["status"]["status_str"] == "success"


def test_odd_sizes_and_grey_and_tiny(server, embedded, tmp_path):
    # The LoadImage of 0.33.0 reads through PyAV, which refuses grey files of fewer than some 16 rows.
    for size, mode in (((31, 57), "RGB"), ((1, 1), "RGB"), ((57, 31), "L")):
        Image.open(DEMO).convert(mode).crop((100, 100, 100 + size[0], 100 + size[1])).save(
            server.base / "input" / "odd.png"
        )
        graph = all_in_one(long_side=0)
        graph["1"] = node("LoadImage", image="odd.png")
        graph["3"]["inputs"]["filename_prefix"] = f"odd{size[0]}"
        expected = embedded(read_picture(server.base / "input" / "odd.png").rgb, 4)
        assert _difference(server, graph, expected) <= 2


def test_an_artist_is_told_what_is_wrong(server):
    graph = step_by_step(long_side=256)
    graph["encode"] = node("VAEEncode", pixels=["1", 0], vae=["model", 2])
    entry = server.run(graph)
    assert entry["status"]["status_str"] == "error"
    assert "connect the picture that was encoded" in str(entry["status"]["messages"])
    with pytest.raises(urllib.error.HTTPError):
        server.run(all_in_one(fidelity=3.0))


def test_a_batch_equals_its_pictures(server, embedded):
    names = [("a.png", (60, 100)), ("b.png", (300, 200))]
    for name, (x, y) in names:
        Image.open(DEMO).crop((x, y, x + 48, y + 40)).save(server.base / "input" / name)
    graph = all_in_one(long_side=0, image="both")
    graph |= {name: node("LoadImage", image=name) for name, _ in names}
    graph["both"] = node("ImageBatch", image1=["a.png", 0], image2=["b.png", 0])
    entry = server.run(graph)
    saved = [i["filename"] for i in entry["outputs"]["3"]["images"]]
    for (name, _), shown in zip(names, saved, strict=True):
        expected = embedded(read_picture(server.base / "input" / name).rgb, 4)
        assert float((read_picture(server.base / "output" / shown).rgb - expected).abs().max()) * 255 <= 2


def test_alpha_in_the_image_becomes_the_mask(server):
    image = Image.open(DEMO).crop((200, 100, 240, 130)).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(server.base / "input" / "rgba.png")
    graph = all_in_one(long_side=0, image="rgba")
    graph["load"] = node("LoadImage", image="rgba.png")
    graph["rgba"] = node("JoinImageWithAlpha", image=["load", 0], alpha=["load", 1])
    graph["m"] = node("MaskToImage", mask=["2", 1])
    graph["out"] = node("SaveImage", images=["m", 0], filename_prefix="alpha")
    entry = server.run(graph)
    with Image.open(server.picture(entry, "3")) as shown:
        assert shown.mode == "RGBA" and shown.size == (160, 120)
    alpha = read_picture(server.base / "input" / "rgba.png").alpha
    mask = read_picture(server.picture(entry, "out")).rgb[:, :1]
    assert mask.std() > 0.1
    small = torch.nn.functional.interpolate(mask, size=(30, 40), mode="area")
    assert float((small - (1 - alpha)).abs().max()) < 0.03


def test_an_empty_latent_is_sampled_like_any_other(server):
    graph = step_by_step(fidelity=0.0, colour="none")
    graph["encode"] = node("EmptySD3LatentImage", width=256, height=128, batch_size=1)
    with Image.open(server.picture(server.run(graph), "3")) as shown:
        assert shown.size == (512, 256)  # stock empty latents count 8 px a latent pixel, F16 has 16


def test_a_resized_latent_is_refused(server):
    graph = step_by_step(long_side=256)
    graph["bigger"] = node(
        "LatentUpscale", samples=["sample", 0], upscale_method="bilinear", width=512, height=512, crop="disabled"
    )
    graph["decode"]["inputs"]["latent"] = ["bigger", 0]
    assert "was encoded for 256x256 px and is 1024x1024 px now" in str(server.run(graph)["status"]["messages"])


def test_a_corrupt_or_foreign_adapter_is_named(server, stand_in):
    loras = server.base / "models" / "loras"
    loras.mkdir(exist_ok=True)
    (loras / "broken.safetensors").write_bytes(b"not a safetensors file, but long enough to have a header")
    foreign = {f"lora_unet_down_{i}.lora_{s}.weight": torch.zeros(4, 4) for i in range(2) for s in ("down", "up")}
    save_file(foreign, loras / "foreign.safetensors")
    for name, says in (("broken", "broken.safetensors"), ("foreign", "foreign.safetensors")):
        graph = step_by_step(long_side=256)
        graph["lora"] = node(
            "OP4KSR_LoadAdapters",
            model=["model", 0],
            vae=["model", 2],
            adapter=f"{name}.safetensors",
            model_strength=1.0,
            vae_strength=1.0,
        )
        graph["sample"]["inputs"]["model"] = ["lora", 0]
        messages = server.run(graph)["status"]["messages"]
        assert messages[-1][0] == "execution_error" and messages[-1][1]["node_type"] == "OP4KSR_LoadAdapters"
        assert messages[-1][1]["exception_type"] == "OP4KSR"
        assert says in messages[-1][1]["exception_message"]
        print(messages[-1][1]["exception_message"])


def test_a_schedule_that_is_no_flow_is_refused(server):
    graph = step_by_step(long_side=256)
    graph["other"] = node("ModelSamplingDiscrete", model=["model", 0], sampling="eps", zsnr=False)
    graph["sample"]["inputs"]["model"] = ["other", 0]
    assert "needs a flow model" in str(server.run(graph)["status"]["messages"])


def test_the_log_says_the_memory_plan(server):
    server.run(all_in_one(long_side=320))
    log = (server.base / "server.log").read_text()
    assert "512x512 -> 320x320, padded 320x320, 100 tokens: encode" in log and "GB free on cpu" in log


def progress_of(server, graph, name):
    """(value, max) of every message about a node's bar, in order."""
    import websockets.sync.client

    told = []
    address = server.url.replace("http", "ws") + "/ws?clientId=progress"
    with websockets.sync.client.connect(address) as socket:
        server.post("/prompt", {"prompt": graph, "client_id": "progress"})
        while True:
            message = socket.recv(timeout=120)
            if isinstance(message, bytes):
                continue
            message = json.loads(message)
            if message["type"] == "progress" and message["data"]["node"] == name:
                told.append((message["data"]["value"], message["data"]["max"]))
            if message["type"] in ("execution_success", "execution_error"):
                assert message["type"] == "execution_success", message
                return told


def test_progress_is_told_in_every_phase(server):
    """One bar that never goes back and moves within the encoder, the decoder and the compensation."""
    told = progress_of(server, all_in_one(long_side=1024), "2")
    values = [value for value, _ in told]
    assert {total for _, total in told} == {1000} and values == sorted(values) and values[-1] == 1000
    for low, high in ((0, 250), (400, 850), (850, 1000)):
        assert any(low < value < high for value in values), (low, high, values)


def test_cancel_leaves_the_server_working(server, headless):
    import threading
    import time

    threading.Timer(6, lambda: server.post("/interrupt", {})).start()
    started = time.time()
    entry = server.run(all_in_one(long_side=4096))
    assert entry["status"]["status_str"] == "error" and "execution_interrupted" in str(entry["status"]["messages"])
    print(f"returned {time.time() - started - 6:.1f} s after the cancel")
    assert torch.isfinite(headless).all() and _difference(server, all_in_one(), headless) <= 2


@pytest.mark.slow
def test_runs_in_a_row_do_not_grow_memory(server):
    """Thirty runs at 256 px, each with its own settings so that nothing is answered from the cache."""
    import psutil

    process = psutil.Process(server.pid)
    sizes = []
    for run in range(30):
        assert server.run(all_in_one(long_side=256, sigma_mid=0.2 + run / 400))["status"]["status_str"] == "success"
        sizes.append(process.memory_info().rss)
    assert max(sizes[20:]) < max(sizes[5:15]) + 60e6, [size // 10**6 for size in sizes]


def test_the_inspector_and_the_suppressor_as_in_the_core(server):
    from patterns import marked, scene

    from op4ksr_core.lattice.inspector import inspect
    from op4ksr_core.picture.read import Picture
    from op4ksr_core.picture.write import write_picture

    x = marked(scene(), 16, 3.0)
    write_picture(server.base / "input" / "lattice.png", Picture(x[None]))
    expected = inspect(read_picture(server.base / "input" / "lattice.png").rgb[0])
    graph = {"1": node("LoadImage", image="lattice.png")}
    graph["look"] = node("OP4KSR_Inspect", image=["1", 0], periods="8, 16", search=True, reference=["1", 0])
    graph["mend"] = node("OP4KSR_Suppress", image=["1", 0])
    told = {"score": 0, "period": 1, "report": 2}
    graph |= {name: node("PreviewAny", source=["look", slot]) for name, slot in told.items()}
    graph["heat"] = node("MaskToImage", mask=["look", 4])
    for name, source in {"3": ["mend", 0], "picture": ["look", 3], "map": ["heat", 0], "over": ["look", 5]}.items():
        graph[name + "s"] = node("SaveImage", images=source, filename_prefix=f"inspect_{name}")
    entry = server.run(graph)
    cleaned = read_picture(server.picture(entry, "3s")).rgb[0]
    assert float(entry["outputs"]["score"]["text"][0]) == pytest.approx(expected.score, abs=1e-4)
    assert entry["outputs"]["period"]["text"][0] == "16"
    assert "period 16 px" in entry["outputs"]["report"]["text"][0] and "L_AP" in entry["outputs"]["report"]["text"][0]
    assert inspect(cleaned).amplitude < 0.2 * expected.amplitude
    assert read_picture(server.picture(entry, "maps")).rgb.shape == (1, 3, 512, 512)
    assert read_picture(server.picture(entry, "overs")).rgb.shape == (1, 3, 512, 512)
    graph["look"]["inputs"]["periods"] = "eight"
    assert "whole numbers" in str(server.run(graph)["status"]["messages"])


def test_compensation_wants_a_reference_for_each_picture(server):
    graph = {"1": LOAD, "two": node("RepeatImageBatch", image=["1", 0], amount=2)}
    graph["2"] = node("OP4KSR_Compensate", image=["1", 0], reference=["two", 0], compensation=1.0)
    graph["3"] = node("PreviewImage", images=["2", 0])
    assert "1 pictures and 2 references" in str(server.run(graph)["status"]["messages"])


def test_a_detail_network_of_ones_own(server, photo):
    """The file in models/op4ksr is what the command line runs; a name that is not there is an error."""
    from op4ksr_core.model.compensation import compensate, load_compensation

    network = load_compensation()
    with torch.no_grad():
        network.tail.weight.zero_()  # adds nothing
    folder = server.base / "models" / "op4ksr"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "own.safetensors"
    save_file(network.state_dict(), file)
    try:
        graph = {"1": LOAD}
        for name, source, width, height in (("small", "1", 40, 24), ("large", "small", 160, 96)):
            size = {"width": width, "height": height, "crop": "disabled"}
            graph[name] = node("ImageScale", image=[source, 0], upscale_method="bicubic", **size)
        for name, own in (("a", "bundled"), ("b", "own.safetensors")):
            about = {"image": ["large", 0], "reference": ["small", 0], "compensation": 1.0, "detail_network": own}
            graph[name] = node("OP4KSR_Compensate", **about)
        for name in ("small", "large", "a", "b"):
            graph[f"save {name}"] = node("SaveImage", images=[name, 0], filename_prefix=f"detail_{name}")
        entry = server.run(graph)
        found = {name: read_picture(server.picture(entry, f"save {name}")).rgb for name in ("small", "large", "a", "b")}
        for name, module in (("a", load_compensation()), ("b", network)):
            expected = compensate(found["large"], found["small"], 1.0, module)
            assert float((found[name] - expected).abs().max()) < 3 / 255
        assert float((found["a"] - found["b"]).abs().max()) > 3 / 255
        save_file(load_compensation().state_dict(), file)  # trained anew under the same name
        anew = read_picture(server.picture(server.run(graph), "save b")).rgb
        assert float((found["a"] - anew).abs().max()) < 1 / 255
        graph["b"]["inputs"]["detail_network"] = "gone.safetensors"
        for name in ("small", "large", "a"):
            del graph[f"save {name}"]
        try:
            said = str(server.run(graph)["status"]["messages"])
        except urllib.error.HTTPError as error:  # versions that check an optional choice before they run
            said = error.read().decode()
        assert "gone.safetensors" in said
    finally:
        file.unlink()


def sweep_node(**changes):
    options = {"thetas": "100, 10000", "sigmas": "0.3, 0.7", "long_side": 1024, "scale": 4.0, "steps": 1}
    options |= {"guidance": 1.0, "colour": "none", "fidelity": 0.0, "vae_factor": "16"} | NO_NOISE | changes
    return node("OP4KSR_ThetaSweep", image=["1", 0], **options)


def test_the_sweep_as_in_the_core(server, embedded, photo):
    from op4ksr_core.diagnostics import sweep

    graph = {"1": LOAD, "sweep": sweep_node()}
    for name, slot in {"sheet": 0, "plot": 1}.items():
        graph[name] = node("SaveImage", images=["sweep", slot], filename_prefix=name)
    graph |= {name: node("PreviewAny", source=["sweep", slot]) for name, slot in {"theta": 2, "report": 4}.items()}
    entry = server.run(graph)
    trials, frames = [], None
    for theta, sigma in sweep.settings_of([100, 10_000], [0.3, 0.7]):
        settings = replace(
            PRESETS["embedded"], sigma=sigma, rope=RopeSettings(theta), colour="none", fidelity=0.0, compensation=0
        )
        picture = embedded(photo, LongSide(1024), settings=settings)[0]
        frames = frames or sweep.choose_frames(picture)
        trials.append(sweep.judge(theta, sigma, picture, frames, trials[0] if trials else None, photo[0]))
    report = entry["outputs"]["report"]["text"][0].splitlines()
    assert len(report) == 5 and trials[0].score < 0.5 and "period 32 px" in report[3]
    assert float(entry["outputs"]["theta"]["text"][0]) == sweep.best(trials).theta
    shown, expected = read_picture(server.picture(entry, "sheet")).rgb[0], as_tensor(sweep.contact_sheet(trials))
    assert shown.shape == expected.shape
    assert float((shown - expected).abs().mean()) * 255 < 1
    assert read_picture(server.picture(entry, "plot")).rgb.shape == (1, 3, 900, 640)


def test_the_sweep_moves_one_bar_from_end_to_end(server):
    graph = {"1": LOAD, "2": sweep_node(long_side=256), "3": node("PreviewImage", images=["2", 0])}
    told = progress_of(server, graph, "2")
    values = [value for value, _ in told]
    assert {total for _, total in told} == {1300}
    # 0.33.0 sends a bar's messages a few times a second at most, but always the first and the last.
    assert values == sorted(values) and values[0] <= 100 and values[-1] == 1300 and len(set(values)) > 4


def test_rope_analysis_puts_the_models_own_first(server):
    graph = {"m": node("OP4KSR_LoadEmbedded")}
    options = {"thetas": "10000", "scheme": "plain", "width": 4096, "height": 2048, "vae_factor": "16"}
    graph["rope"] = node("OP4KSR_RopeAnalysis", model=["m", 0], **options)
    graph["3"] = node("SaveImage", images=["rope", 0], filename_prefix="rope")
    graph |= {name: node("PreviewAny", source=["rope", slot]) for name, slot in {"report": 1, "pairs": 2}.items()}
    entry = server.run(graph)
    lines = entry["outputs"]["report"]["text"][0].splitlines()
    assert lines[0].startswith("Theta 100, plain: ") and lines[1].startswith("Theta 10000, plain: ")
    assert "128x64 tokens" in lines[0] and read_picture(server.picture(entry, "3")).rgb.shape[-1] == 1080
    del graph["rope"]["inputs"]["model"]
    graph["rope"]["inputs"]["thetas"] = "100"
    assert server.run(graph)["outputs"]["pairs"]["text"][0] == "15"
    graph["rope"]["inputs"]["thetas"] = ""
    assert "at least one theta" in str(server.run(graph)["status"]["messages"])


def test_the_latent_view_shows_what_the_transformer_does(server):
    graph = step_by_step()
    graph["sample"]["inputs"]["sigma_mid"] = 0.7
    graph["view"] = node("OP4KSR_LatentView", latent=["sample", 0], before=["encode", 0])
    graph["alone"] = node("OP4KSR_LatentView", latent=["encode", 0])
    graph["report"] = node("PreviewAny", source=["view", 3])
    graph |= {name: node("PreviewAny", source=[name.rstrip("_"), 2]) for name in ("view_", "alone_")}
    graph["3"] = node("SaveImage", images=["view", 1], filename_prefix="components")
    entry = server.run(graph)
    assert read_picture(server.picture(entry, "3")).rgb.shape == (1, 3, 64, 64)
    after, before = (float(entry["outputs"][name]["text"][0]) for name in ("view_", "alone_"))
    assert after > 2 * before > 0
    assert "after: " in entry["outputs"]["report"]["text"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thetas": "100; 10"}, "numbers with commas"),
        ({"thetas": ""}, "at least one theta"),
        ({"sigmas": "0"}, "above 0"),
        ({"long_side": 40}, "at least 64 px"),
    ],
)
def test_the_sweep_names_bad_input(server, change, message):
    graph = {"1": LOAD, "2": sweep_node(**change), "3": node("PreviewImage", images=["2", 0])}
    assert message in str(server.run(graph)["status"]["messages"])


def test_comfyuis_own_lora_loader_takes_a_converted_adapter(server, tmp_path):
    """The kohya form through the stock loader gives the transformer's part of what our node gives."""
    from model_files import write_omgsr_adapters

    from op4ksr_core.weights.convert import convert
    from op4ksr_core.weights.loading import load_transformer, load_vae

    write_omgsr_adapters(tmp_path / "a", load_transformer(EMBEDDED / "transformer"), load_vae(EMBEDDED / "vae"))
    for form, name in (("file", "ours.safetensors"), ("kohya", "kohya.safetensors")):
        convert(tmp_path / "a", server.base / "models" / "loras" / name, form)
    ours, stock = step_by_step(256, fidelity=0.0), step_by_step(256, fidelity=0.0)
    options = {"model_strength": 4.0, "vae_strength": 0.0}
    ours["lora"] = node(
        "OP4KSR_LoadAdapters", model=["model", 0], vae=["model", 2], adapter="ours.safetensors", **options
    )
    stock["lora"] = node("LoraLoaderModelOnly", model=["model", 0], lora_name="kohya.safetensors", strength_model=4.0)
    bare = step_by_step(256, fidelity=0.0)
    for graph in (ours, stock, bare):
        graph["sample"]["inputs"] |= {"model": ["model" if graph is bare else "lora", 0], "sigma_mid": 0.8}
    a, b, plain = (read_picture(server.picture(server.run(graph), "3")).rgb for graph in (ours, stock, bare))
    assert float((a - b).abs().max()) * 255 <= 1 and float((a - plain).abs().max()) * 255 > 3
