"""Real-ESRGAN's degradation (arXiv 2107.10833, section 3): blur, resize, noise and JPEG, twice, with sinc filters.

`draw` chooses every step and its parameters, `apply` carries them out: so that what a setting does can be counted and
shown. All random numbers come from one generator; with a CPU one a seed gives the same choices on every device.
Pictures are (3, H, W) in [0, 1]. Checked against draws of the code of Real-ESRGAN and OMGSR
(`tests/train/test_degradation.py`).
"""
