"""The bundled detail network was levelled; levelling another one takes the places' difference on unseen noise away."""

import torch
from torch.nn import functional as F

from op4ksr_core.model.compensation import load_compensation
from recipes.embedded.levelling import level_places, means, small_pictures, unevenness


def enlarge(small):
    return F.interpolate(small, scale_factor=4, mode="bicubic").clamp(0, 1)


def uneven(module, seed):
    """Largest difference of a place from the others' mean, in 1/255."""
    found = [unevenness(means(module, small, enlarge(small))[1]) for small in small_pictures(seed)]
    return 255 * float(torch.stack(found).abs().max())


def test_places_become_alike_on_unseen_noise():
    module = load_compensation()
    with torch.no_grad():
        module.tail.weight[::16, :, 1, 1] += 0.002  # one place of the sixteen stands out
        before, small = uneven(module, 7), small_pictures(7)[8]
        added = module(small, enlarge(small))
        level_places(module, enlarge)
        changed = module(small, enlarge(small)) - added
    assert before > 1 and uneven(module, 7) < 0.3 * before
    assert float(changed.std()) < 0.2 * float(added.std())
