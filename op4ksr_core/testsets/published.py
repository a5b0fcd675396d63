"""Rows that OP4KSR's paper (arXiv 2605.13457) publishes, as far as we know them."""

SYN = {"OP4KSR": {"psnr": 24.31, "ssim": 0.6830, "lpips": 0.3297, "dists": 0.1496}}
"""4KSR-Syn, 82 pictures of the paper's own."""

ABLATION = {
    "base": {"psnr": 25.32, "lpips": 0.2976, "musiq": 52.94},
    "+ RFR": {"psnr": 24.64, "lpips": 0.3244, "musiq": 54.73},
    "+ L_AP": {"psnr": 24.85, "lpips": 0.3150, "musiq": 55.12},
    "+ RFR + L_AP": {"psnr": 24.31, "lpips": 0.3297, "musiq": 56.51},
}
"""The ablation, on 4KSR-Syn."""

SECONDS = {"OP4KSR": (5.75, 32.88), "OSEDiff": (61.77, None), "OMGSR": (91.33, None), "SUPIR": (1643.7, None)}
"""Seconds for one 4096x4096 px picture, and GB, on an H20."""
