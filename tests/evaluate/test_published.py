"""The papers' tables as package data."""

import numpy as np
import pytest
from PIL import Image

from op4ksr_core.app import cli
from op4ksr_core.errors import SettingError
from op4ksr_core.evaluate import published


def test_the_paper_s_own_row():
    [row] = [row for row in published.table("OP4KSR", "3", "4KSR-Syn") if row.method == "OP4KSR"]
    assert row.values["psnr"] == 24.31 and row.values["ssim"] == 0.683 and row.values["lpips"] == 0.3297


def test_nine_tables_are_held():
    held = {(row.paper, row.table) for row in published.rows()}
    own = {("OP4KSR", number) for number in ("3", "4", "5", "6")}
    assert held == own | {("OSEDiff", "1"), ("OSEDiff", "7"), ("TVT", "1"), ("TVT", "2"), ("F2IDiff", "2")}


def test_data_of_one_name_stays_apart_by_paper():
    found = published.tables("realsr")
    assert {rows[0].paper for rows in found} >= {"OSEDiff", "TVT", "F2IDiff"}
    assert all(len({(row.paper, row.table) for row in rows}) == 1 for rows in found)


@pytest.mark.parametrize("data", ["RealSR", "DRealSR", "DIV2K"])
def test_osediff_has_one_row_in_the_three_papers(data):
    """F2IDiff-SR prints fewer digits, and each paper names DIV2K's crops in its own way."""
    papers = {"OSEDiff": "1", "TVT": "2", "F2IDiff": "2"}
    rows = [row for row in published.rows() if papers.get(row.paper) == row.table]
    rows = [row for row in rows if row.data.lower().startswith(data.lower())]
    own = [row.values for row in rows if row.method in ("OSEDiff-s1", "OSDiff-S1")]
    assert len(own) == 3
    for name in ("psnr", "ssim", "lpips", "dists", "musiq", "clipiqa"):
        values = [one[name] for one in own if name in one]
        assert len(values) == 3 and max(values) - min(values) < 1.1e-2, name


def test_data_without_a_table_is_named_with_what_there_is():
    with pytest.raises(SettingError, match=r"'4KSR-Sun'.*4KSR-Syn\?"):
        published.tables("4KSR-Sun")


def test_evaluate_prints_them_apart_from_our_means(tmp_path, capsys):
    for part in ("a", "gt"):
        (tmp_path / part).mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / part / "x.png")
    words = ["evaluate", str(tmp_path / "a"), "--gt", str(tmp_path / "gt"), "--metrics", "psnr,gmsd"]
    assert cli.main([*words, "--compare", "4ksr-syn"]) == 0
    out = capsys.readouterr().out
    ours, theirs = out.split("Published on")
    assert "OP4KSR, table 3, on 4KSR-Syn" in theirs and "| OP4KSR | 24.31 |" in theirs and "OP4KSR" not in ours
    assert cli.main([*words, "--compare", "nothing"]) == 2 and "No table is on" in capsys.readouterr().err
