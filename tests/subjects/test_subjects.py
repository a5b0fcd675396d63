import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from op4ksr_core.errors import ImageError, SettingError
from op4ksr_core.paths import ASSETS, DEMO_PHOTO
from op4ksr_core.picture.convert import as_tensor
from op4ksr_core.picture.read import read_picture
from op4ksr_core.subjects.faces import find_faces
from op4ksr_core.subjects.lettering import find_lettering
from op4ksr_core.subjects.protect import KEPT, face_mask, protected_in_words, protected_mask, strength_map


@pytest.fixture(scope="module")
def astronaut():
    """A portrait, (3, 512, 512): one face about (225, 110), with lettering on the suit."""
    return read_picture(ASSETS / "demo" / "astronaut.png").rgb[0]


@pytest.fixture(scope="module")
def sign():
    """Two words on a board between x 60 and 300, y 90 and 200, on a ramp of grey."""
    image = Image.linear_gradient("L").resize((384, 288)).convert("RGB")
    draw = ImageDraw.Draw(image)
    draw.rectangle((50, 80, 320, 210), fill=(180, 20, 30))
    draw.text((65, 90), "OPEN", fill="white", font=ImageFont.load_default(52))
    draw.text((65, 150), "24 hours", fill="white", font=ImageFont.load_default(44))
    return as_tensor(image)


def inside(box, x, y):
    left, top, right, bottom = box[:4].tolist()
    return left < x < right and top < y < bottom


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.25])
def test_finds_the_one_face_at_any_size(astronaut, scale):
    small = torch.nn.functional.interpolate(astronaut[None], scale_factor=scale, mode="area")[0]
    boxes = find_faces(small)
    assert len(boxes) == 1 and inside(boxes[0], 225 * scale, 110 * scale)
    assert 60 * scale < boxes[0, 2] - boxes[0, 0] < 140 * scale


def test_finds_a_face_in_the_corner_of_a_large_picture(astronaut):
    large = torch.rand(3, 1, 1).expand(3, 1400, 2000).clone()
    large[:, -512:, -512:] = astronaut
    boxes = find_faces(large)
    assert len(boxes) == 1 and inside(boxes[0], 2000 - 512 + 225, 1400 - 512 + 110)


def test_no_face_where_there_is_none():
    assert len(find_faces(read_picture(DEMO_PHOTO).rgb[0])) == 0
    assert len(find_faces(torch.zeros(3, 40, 40))) == 0
    assert len(find_faces(torch.rand(3, 9, 200))) == 0


def test_finds_text_and_nothing_beside_it(sign):
    likely = find_lettering(sign)
    assert likely.shape == (288, 384)
    assert (likely[100:190, 75:250] > 0.5).float().mean() > 0.5
    assert (likely[230:] > 0.5).float().mean() < 0.01 and (likely[:60] > 0.5).float().mean() < 0.01


def test_the_mask_covers_what_was_asked_for(astronaut):
    faces, lettering, both, nothing = (
        protected_mask(astronaut[None], kind)[0, 0] for kind in ("faces", "lettering", "both", "nothing")
    )
    assert faces[110, 225] == 1 and faces[400, 60] == 0
    assert torch.equal(both, torch.maximum(faces, lettering)) and not nothing.any()
    strength = strength_map(both)
    assert strength.max() == 1 and float(strength.min()) == pytest.approx(1 - KEPT)


def test_each_picture_of_a_batch_has_its_own_mask(astronaut):
    masks = protected_mask(torch.stack([astronaut, astronaut.flip(-1)]), "faces")
    assert masks.shape == (2, 1, 512, 512) and masks[1, 0, 110, 511 - 225] == 1
    assert not torch.equal(masks[0], masks[1])


def test_an_ellipse_holds_the_box_and_fades():
    mask = face_mask(torch.tensor([[40.0, 30.0, 80.0, 90.0, 1.0]]), torch.Size((120, 120)))
    assert mask[60, 60] == 1 and mask[60, 41] == 1 and mask[0, 0] == 0
    assert 0 < float(mask[mask > 0].min()) < 1


def test_errors_name_the_value():
    with pytest.raises(SettingError, match="'hair'"):
        protected_mask(torch.zeros(1, 3, 32, 32), "hair")
    with pytest.raises(ImageError):
        find_faces(torch.zeros(3, 32, 32).fill_(float("nan")))


def test_how_much_is_protected_is_said_in_words():
    mask = torch.zeros(2, 1, 10, 10)
    assert "no lettering" in protected_in_words(mask, "lettering")
    mask[0, 0, 0, 0] = 1
    assert "less than 1% of the pictures" in protected_in_words(mask, "faces")
    mask[:, 0, :3] = 1
    assert "30% of the pictures" in protected_in_words(mask, "both")
