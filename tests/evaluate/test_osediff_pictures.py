"""Our evaluator on OSEDiff's released pictures, where they are laid out: OSEDIFF names a checkout of cswry/OSEDiff."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from op4ksr_core.evaluate import measures
from op4ksr_core.evaluate.niqe import niqe_pyiqa
from op4ksr_core.picture.read import read_picture

REALSR = Path(os.environ.get("OSEDIFF", "~/OSEDiff")).expanduser() / "preset/datasets/benchmark_realsr"
NIQE = {"Canon_001_LR4": 5.673670, "Canon_003_LR4": 7.759458, "Canon_005_LR4": 5.786093, "Canon_008_LR4": 3.254508}
"""From `results_osediff/metrics/test_METRICS_241023-172854.log` of cswry/OSEDiff, which pyiqa made."""


@pytest.mark.slow
@pytest.mark.shared
def test_osediff_s_released_pictures_have_the_published_figures():
    """PSNR 25.1511 and SSIM .7341 over its 100 RealSR pictures; NIQE of four by its log, to .02. BT.601's limited range
    gives 5.93 for the first of them."""
    if not (REALSR / "results_osediff").is_dir():
        warnings.warn(f"NO released pictures of OSEDiff at {REALSR}: tests/README.md", stacklevel=1)
        pytest.skip(f"NO released pictures of OSEDiff at {REALSR} (set OSEDIFF)")
    found = []
    for path in sorted((REALSR / "results_osediff").glob("*.png")):
        truth = REALSR / "test_HR" / path.name
        pair = [read_picture(one).rgb for one in (path, truth)]
        found.append((measures.psnr(*pair), measures.ssim(*pair)))
        if path.stem in NIQE:
            assert niqe_pyiqa(pair[0]) == pytest.approx(NIQE[path.stem], abs=0.02)
    assert len(found) == 100
    assert np.mean(found, axis=0) == pytest.approx((25.1511, 0.7341), abs=1e-4)
