"""The recipe of the bundled model: its loop, its teacher's files, its figures. Whole stages take hours."""

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from patterns import woven
from torch import nn

from op4ksr_core import PRESETS, Upscaler
from op4ksr_core.geometry import Size
from op4ksr_core.model.compensation import HighFrequencyCompensation
from op4ksr_core.model.flow import image_ids
from op4ksr_core.model.rope import RotaryEmbedding
from op4ksr_core.picture.luma import FULL_RANGE
from op4ksr_core.picture.resample import resize
from op4ksr_core.settings import RopeSettings
from op4ksr_core.train.losses.detail import strength
from recipes.embedded import detail, export, figures, loop, networks, norms, transformer
from recipes.embedded.muon import Muon, orthogonal
from recipes.embedded.teacher import Graph, sharp_target


def make_loop(run, minutes, **settings):
    torch.manual_seed(0)
    return loop.Loop("test", run, nn.Linear(2, 1), minutes, 1e-2, settings)


def train(one, steps):
    """Steps until the step `steps`, then as if killed: the last checkpoint is what there is."""

    class Killed(Exception):
        pass

    def loss(rng, step):
        if step == steps:
            one.save()
            raise Killed
        x = torch.tensor([[rng.random(), rng.random()]])
        return (one.module(x) - x.sum()).square().mean()

    with pytest.raises(Killed):
        one.train(loss, lambda module: {"score": 0.0})


def test_a_killed_stage_resumes_at_its_step(tmp_path):
    train(make_loop(tmp_path, 5), 20)
    resumed = make_loop(tmp_path, 5)
    assert resumed.step == 20 and resumed.used > 0
    train(resumed, 30)
    assert make_loop(tmp_path, 5).step == 30


def test_a_checkpoint_of_other_settings_is_refused_by_name(tmp_path):
    make_loop(tmp_path, 1, width=48).save()
    with pytest.raises(SystemExit, match=r"test\.pt.*width.*48.*64"):
        make_loop(tmp_path, 1, width=64)


def test_a_gradient_that_is_not_finite_stops_the_stage(tmp_path):
    one = make_loop(tmp_path, 1)
    with pytest.raises(SystemExit, match=r"gradient .*nan.*test\.pt"):
        one.train(lambda rng, step: one.module(torch.full((1, 2), torch.nan)).sum(), lambda module: {"score": 0.0})


@pytest.mark.parametrize("shape", [(8, 40), (3, 40, 8)])
def test_muon_makes_matrices_about_orthonormal(shape):
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.min() > 0.6 and values.max() < 1.3


def test_muon_moves_weights_of_one_shape_as_if_each_were_alone():
    together = [nn.Parameter(torch.randn(4, 3, 3, 3)) for _ in range(3)] + [nn.Parameter(torch.randn(4, 8))]
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    optimizers = [Muon(together, 1e-2), *(Muon([p], 1e-2) for p in alone)]
    for _ in range(3):
        for a, b in zip(together, alone, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=2e-3)  # bfloat16 where the CPU has it


def test_kept_positions_are_each_sizes_own():
    known, plain = networks.KnownPositions(100.0), RotaryEmbedding(RopeSettings(theta=100.0))
    for size in ((8, 12), (12, 8), (8, 12)):  # as many tokens, at other places
        known.size, ids = size, image_ids(*size)
        for a, b in zip(known(ids), plain(ids), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("side", [16, 128])
def test_heads_of_the_last_blocks_look_at_one_neighbour_under_theta_100_alone(side):
    from diffusers.models.embeddings import apply_rotary_emb

    torch.manual_seed(0)
    restorer, middle = networks.Restorer(), side // 2
    tokens = torch.randn(1, side * side, 256)
    for theta, least, most in ((100.0, 0.6, 1.0), (10_000.0, 0.0, 0.1)):
        rotary = RotaryEmbedding(RopeSettings(theta=theta))(image_ids(2 * side, 2 * side))
        for block, offsets in zip(restorer.dit.single_transformer_blocks[1:], networks.NEIGHBOURS, strict=True):
            attention = block.attn
            queries = attention.norm_q(attention.to_q(tokens).unflatten(-1, (2, 128)))
            keys = attention.norm_k(attention.to_k(tokens).unflatten(-1, (2, 128)))
            queries, keys = (apply_rotary_emb(x, rotary, sequence_dim=1)[0] for x in (queries, keys))
            for head, (down, right) in enumerate(offsets):
                logits = keys[:, head] @ queries[middle * side + middle, head] / 128**0.5
                share = logits.softmax(0).unflatten(0, (side, side))[middle + down, middle + right]
                assert least <= share <= most


def with_droplet(x):
    x = x.clone()
    x[..., :1, :1] += 100.0
    return x


def test_inner_norms_do_not_see_the_border_and_charge_for_what_stands_out_there():
    norm, x = nn.GroupNorm(2, 8), torch.randn(2, 8, 24, 24)
    with norms.inner_norms(norm, pooled=False):
        calm, excess = norm(x)[..., 4:-4, 4:-4], float(norms.excess_of(norm))
        loud, charged = norm(with_droplet(x))[..., 4:-4, 4:-4], norms.excess_of(norm)
    torch.testing.assert_close(loud, calm)
    assert float(charged) > excess + 0.005
    assert type(norm) is nn.GroupNorm and float((norm(with_droplet(x)) - norm(x)).detach().abs().max()) > 1


def test_pooled_inner_norms_take_one_statistic_for_all_crops():
    norm = nn.GroupNorm(2, 8)
    x = torch.randn(2, 8, 24, 24) * torch.tensor([1.0, 4.0])[:, None, None, None]
    with norms.inner_norms(norm, pooled=True):
        small, large = norm(x).std((1, 2, 3))
    assert float(large / small) == pytest.approx(4, rel=0.1)


def write_ncnn(folder, layers, half):
    """The files of 3x3 convolutions and PReLUs over one another, four times as large, and half of the picture itself
    repeated beside that: the layers that both teachers have."""
    lines, raw = ["7767517", "9 9", "Input data 0 1 data", "Split s 1 2 data 0 other"], b""
    for number, layer in enumerate(layers):
        if isinstance(layer, nn.PReLU):
            lines.append(f"PReLU p{number} 1 1 {number} {number + 1} 0={layer.num_parameters}")
        else:
            size = layer.weight.numel()
            lines.append(f"Convolution c{number} 1 1 {number} {number + 1} 0={layer.out_channels} 1=3 4=1 5=1 6={size}")
            kind = np.float16 if half else np.float32
            weights = layer.weight.detach().numpy().astype(kind).tobytes()
            raw += struct.pack("<I", 0x01306B47 if half else 0) + weights + b"\0" * (-len(weights) % 4)
        raw += (layer.bias if isinstance(layer, nn.Conv2d) else layer.weight).detach().numpy().tobytes()
    lines.append(f"PixelShuffle d 1 1 {len(layers)} detail 0=4")
    lines.append("Interp r 1 1 other large 0=1 1=4.000000e+00 2=4.000000e+00")
    lines.append("Eltwise e 2 1 detail large output 0=1 -23301=2,1.000000e+00,5.000000e-01")
    (folder / "t.param").write_text("\n".join(lines))
    (folder / "t.bin").write_bytes(raw)
    return folder / "t.param"


@pytest.mark.parametrize("half", [False, True])
def test_the_teacher_is_read_from_ncnns_files(tmp_path, half):
    layers = [nn.Conv2d(3, 5, 3, padding=1), nn.PReLU(5), nn.Conv2d(5, 48, 3, padding=1)]
    teacher, x = Graph(write_ncnn(tmp_path, layers, half)), torch.rand(1, 3, 8, 8)
    large = nn.functional.interpolate(x, scale_factor=4, mode="nearest")
    expected = nn.functional.pixel_shuffle(nn.Sequential(*layers)(x), 4) + 0.5 * large
    torch.testing.assert_close(teacher(x), expected, rtol=0, atol=2e-3 if half else 1e-6)
    size = (tmp_path / "t.bin").stat().st_size
    (tmp_path / "t.bin").write_bytes((tmp_path / "t.bin").read_bytes() + b"more")
    with pytest.raises(SystemExit, match=rf"t\.bin .*{size + 4}.*{size}"):
        Graph(tmp_path / "t.param")


class Noisy(nn.Module):
    """A teacher that is too bright, too red and draws noise."""

    def forward(self, small):
        torch.manual_seed(0)
        large = nn.functional.interpolate(small, scale_factor=4, mode="bicubic")
        noise = 0.05 * torch.randn_like(large[:, :1])
        return large + noise + torch.tensor([0.08, 0.03, 0.03])[:, None, None]


def test_the_target_has_the_truths_low_band_and_colour():
    truth = 0.3 + 0.4 * torch.rand(1, 3, 64, 64)
    target = sharp_target(Noisy(), nn.functional.avg_pool2d(truth, 4), truth)
    change = target - truth
    assert float((change - change.mean(1, keepdim=True)).abs().max()) < 1e-5  # brightness alone
    assert float(nn.functional.avg_pool2d(change, 8).abs().mean()) < 0.01
    assert float(change.abs().mean()) > 0.02


def test_where_the_truth_is_soft_the_target_is_the_truth():
    truth = torch.linspace(0.3, 0.7, 64).expand(1, 3, 64, 64)
    torch.testing.assert_close(sharp_target(Noisy(), nn.functional.avg_pool2d(truth, 4), truth), truth)


def test_the_soft_guard_sees_a_mesh_where_the_truth_is_soft_alone():
    soft, texture = torch.full((1, 3, 96, 96), 0.5), 0.3 + 0.4 * torch.rand(1, 3, 96, 96)
    mesh = woven(96, 5, 6.0)
    assert detail.soft_guard(soft, soft) == 0 and detail.soft_guard(soft + mesh, soft) > 1e-3
    assert detail.soft_guard(texture + mesh, texture) == 0


def test_artefacts_are_what_varies_and_is_farther_from_the_truth_than_the_average():
    truth = torch.full((1, 3, 64, 64), 0.5)
    noisy, shifted = truth + 0.1 * torch.randn(1, 1, 64, 64), truth + 0.05
    assert detail.artefacts(noisy, truth, truth) > 20 * detail.artefacts(shifted, truth, truth)
    assert detail.artefacts(noisy, noisy + 1, truth) == 0  # the average is worse


def test_colour_error_does_not_see_brightness():
    truth = torch.rand(1, 3, 16, 16)
    assert float(detail.colour_error(truth + 0.1, truth)) < 1e-6
    red = truth + torch.tensor([0.1, 0, 0])[:, None, None]
    assert float(detail.colour_error(red, truth)) > 0.03


def test_a_grown_network_adds_the_same(tmp_path):
    torch.manual_seed(0)
    narrow = HighFrequencyCompensation(8, 2)
    nn.init.normal_(narrow.tail.weight, std=0.1)
    torch.save(narrow.state_dict(), tmp_path / "a.pt")
    detail.grow(tmp_path / "a.pt", tmp_path / "b.pt", 12, 4)
    wide, lr, picture = detail.new_network(tmp_path / "b.pt"), torch.rand(1, 3, 12, 12), torch.rand(1, 3, 48, 48)
    torch.testing.assert_close(wide(lr, picture), narrow(lr, picture), rtol=1e-4, atol=1e-6)
    wide(lr, picture).square().sum().backward()
    assert float(wide.tail.weight.grad[:, 8:].abs().max()) > 0  # the new channels can learn
    assert all(float(block.second.weight.grad.abs().max()) > 0 for block in wide.body)  # and the new blocks


def test_the_figures_see_a_lattice_of_four_px():
    flat = torch.full((2, 3, 64, 64), 0.5)
    assert figures.lattice(flat, flat) == 0 and figures.lattice(flat + woven(64, 4, 2.0), flat) > 0.5


def test_the_guard_pulls_at_a_lattice_and_not_at_its_own_texture():
    texture = torch.rand(2, 3, 96, 96) * 0.2 + 0.4
    assert detail.guard(texture, texture) == 0 and detail.guard(texture + woven(96, 4, 20.0), texture) > 1e-3


def test_the_strength_of_detail_is_asked_for_wherever_it_lies():
    texture = torch.rand(2, 3, 96, 96)
    moved = strength(texture.roll((3, 5), (2, 3))) - strength(texture)
    blurred = strength(nn.functional.avg_pool2d(texture, 3, 1, 1)) - strength(texture)
    assert float(moved.abs().mean()) < 0.2 * float(blurred.abs().mean())


def test_a_new_network_is_about_nothing_and_average_lies_between(tmp_path):
    network = detail.new_network()
    lr = torch.rand(1, 3, 12, 12)
    picture = torch.rand(1, 3, 48, 48)
    assert float((detail.forward(network, lr, picture) - picture).abs().mean()) < 0.1
    for value in (0.0, 1.0):
        state = {key: torch.full_like(x, value) for key, x in network.state_dict().items()}
        torch.save(state, tmp_path / f"{value:g}.pt")
    detail.average(tmp_path / "0.pt", tmp_path / "1.pt", 0.3, tmp_path / "mixed.pt")
    for value in torch.load(tmp_path / "mixed.pt", weights_only=True).values():
        torch.testing.assert_close(value, torch.full_like(value, 0.3))


def test_scaling_makes_brightness_stronger_and_leaves_flat_pictures_alone(tmp_path):
    network = detail.new_network()
    torch.save(network.state_dict(), tmp_path / "a.pt")
    detail.scale(tmp_path / "a.pt", tmp_path / "b.pt", 2.0, 1.0)
    scaled = detail.new_network(tmp_path / "b.pt")
    lr, picture = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64)
    weights = torch.tensor(FULL_RANGE)[None, :, None, None]
    with torch.no_grad():
        before, after = network(lr, picture), scaled(lr, picture)
    luma, luma_after = (x.mul(weights).sum(1, keepdim=True) for x in (before, after))
    shift = nn.functional.pixel_unshuffle(luma_after - 2 * luma, 4)  # a constant for each of the 16 places
    assert float(shift.std((2, 3)).max()) < 1e-5
    greys = torch.linspace(0.05, 0.95, 19)[:, None, None, None].expand(-1, 3, -1, -1)
    with torch.no_grad():
        added = scaled(greys.expand(-1, -1, 40, 40), greys.expand(-1, -1, 160, 160))
    assert float(added[..., 80:84, 80:84].mean(0).abs().max()) < 1e-5


def test_the_detail_network_is_trained_behind_what_the_bundled_model_shows(tmp_path, photo):
    small = resize(photo, Size(96, 96)).clamp(0, 1)
    export.unpack(tmp_path, keep_encoder=True)
    made = transformer.pipeline(tmp_path, torch.device("cpu"))(small, resize(photo, Size(384, 384)))
    settings = replace(PRESETS["embedded"], compensation=0.0)
    shown = Upscaler.from_embedded(settings, "cpu", torch.float32, check_memory=False)(small, 4)
    assert (made - shown).abs().mean() < 0.5 / 255  # bfloat16 where the CPU has it
