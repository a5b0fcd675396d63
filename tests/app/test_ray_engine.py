"""Folders enlarged by Ray actors: the same files as without it."""

import json

import pytest
from PIL import Image

from op4ksr_core.app.cli import main

pytest.importorskip("ray")


@pytest.mark.slow
def test_ray_gives_the_same_files_and_goes_on(tmp_path, photo):
    from op4ksr_core.picture.convert import as_picture

    for n in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        as_picture(photo[0, :, 32 * n : 32 * n + 32, 128:176]).save(tmp_path / "in" / f"{n}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no")
    assert main(["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "one")]) == 1
    summary = tmp_path / "summary.json"
    command = ["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "two"), "--engine", "ray", "--workers", "2"]
    assert main([*command, "--json", str(summary)]) == 1
    for n in range(3):
        one, two = (Image.open(tmp_path / place / f"{n}.png") for place in ("one", "two"))
        assert one.size == (192, 128) and one.tobytes() == two.tobytes()
    results = json.loads(summary.read_text())["results"]
    assert sorted(r["status"] for r in results) == ["done", "done", "done", "failed"]
    assert main([*command, "--json", str(summary)]) == 1
    assert [r["status"] for r in json.loads(summary.read_text())["results"]].count("skipped") == 3
