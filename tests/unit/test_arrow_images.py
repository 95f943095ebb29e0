"""Images in Arrow columns: what a column holds, and which values are refused."""

import io
import struct
import zlib
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.data.formats.arrow_images import decode
from pipelines.data.formats.digits import decode_image
from pipelines.data.formats.image_file import SIGNATURE_BYTES
from pipelines.data.formats.image_format import ImageFormat, binary_content
from pipelines.score.batch.scoring import label_dtype

SHAPE = (28, 28, 1)


def image_format(shape=SHAPE, value_range=(0.0, 255.0), **options):
    return ImageFormat(shape=shape, value_range=value_range, digits=False, **options)


def png(num_bytes=0):
    """A black picture, padded by a comment to a number of bytes."""
    content = io.BytesIO()
    Image.new("L", (28, 28), 0).save(content, "PNG")
    whole = content.getvalue()
    if not num_bytes:
        return whole
    body = b"tEXtComment\0" + b"x" * (num_bytes - len(whole) - 12 - 8)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return whole[:-12] + chunk + whole[-12:]


def values(*images, dtype="u1"):
    return [np.asarray(image, dtype).tobytes() for image in images]


def texts(decoded):
    return tuple((index, fault.text) for index, fault in decoded.errors)


RAW = values(*np.random.default_rng(1).integers(0, 256, (3, 784)))


@pytest.mark.parametrize("num_bytes", [783, 784, 785, 3136])
def test_a_picture_of_as_many_bytes_as_raw_values_is_a_picture(num_bytes):
    content = png(num_bytes)
    assert len(content) == num_bytes
    for column in ([content, png()], [content], [content, None]):
        assert decode(pa.array(column, pa.binary()), image_format()).images[0].max() == 0


def test_a_column_holds_what_most_of_its_values_are():
    def content(*column):
        return binary_content([(len(value), value[:SIGNATURE_BYTES]) for value in column], image_format())

    assert content(*RAW) == "raw"
    assert content(*values(np.zeros(784), np.zeros(784), dtype="<f4")) == "raw"
    assert content(png(784)) == "encoded"
    assert content(*RAW, png()) == "raw"
    # A raw value that happens to begin as a BMP or PGM file does.
    assert content(*RAW, b"P5 " + bytes(781)) == "raw"
    assert content(png(), png(), RAW[0]) == "encoded"


def test_values_that_are_not_of_the_columns_kind_are_errors():
    column = pa.array([*RAW, png(784), None, bytes(12)], pa.binary())
    decoded = decode(column, image_format(content="raw"))
    np.testing.assert_array_equal(decoded.images.reshape(3, -1), [np.frombuffer(value, np.uint8) for value in RAW])
    assert decoded.indices.tolist() == [0, 1, 2]
    assert texts(decoded) == (
        (3, "is an encoded picture, but this column holds raw values"),
        (4, "no image (null)"),
        (
            5,
            "has 12 bytes; raw values of shape [28, 28, 1], which this column holds, take 784 (uint8) or 3136 (float32)",
        ),
    )
    decoded = decode(column, image_format(content="encoded"))
    assert decoded.indices.tolist() == [3]
    assert decoded.errors[0][1].text.startswith("not an image that can be read")


def test_raw_values_may_be_bytes_in_one_row_and_floats_in_another():
    column = [RAW[0], *values(np.full(784, 0.5), dtype="<f4"), RAW[1]]
    decoded = decode(pa.array(column, pa.binary()), image_format(content="raw"))
    assert decoded.indices.tolist() == [0, 1, 2]
    assert decoded.images.reshape(3, -1).mean(axis=1) == pytest.approx(
        [np.frombuffer(RAW[0], np.uint8).mean(), 0.5, np.frombuffer(RAW[1], np.uint8).mean()]
    )


FOUR = image_format((2, 2, 1), (0.0, 16.0), content="raw")
WRONG = {
    "[0, 1, 0] is missing or not finite": [np.nan, np.inf, -np.inf],
    "[0, 1, 0] is 17, outside the range 0 to 16 of the model's training data": [17],
    "[0, 1, 0] is -1, outside the range 0 to 16": [-1],
}


@pytest.mark.parametrize(("message", "value"), [(message, value) for message, found in WRONG.items() for value in found])
def test_values_on_which_the_model_was_not_trained_are_refused(message, value):
    rows = [[0, 16, 1, 2], [0, value, 1, 2], [3, 3, 3, 3]]
    columns = [pa.array(values(*rows, dtype="<f4"), pa.binary()), pa.array(rows, pa.list_(pa.float64()))]
    if value == 17:
        columns += [pa.array(values(*rows), pa.binary()), pa.array(rows, pa.list_(pa.int64()))]
        columns += [pa.array([[Decimal(number) for number in row] for row in rows], pa.list_(pa.decimal128(5, 2)))]
    for column in columns:
        decoded = decode(column, FOUR)
        assert decoded.indices.tolist() == [0, 2]
        assert decoded.images.reshape(2, -1).tolist() == [rows[0], rows[2]]
        ((index, error),) = texts(decoded)
        assert (index, error.startswith(f"the value at {message}")) == (1, True)


def test_missing_values_in_lists_of_any_type_are_refused():
    for kind in (pa.int32(), pa.float32(), pa.decimal128(5, 2)):
        column = pa.array([[1, None, 1, 1], None, [1, 1, 1, 1], [1, 1]], pa.list_(kind))
        decoded = decode(column, FOUR)
        assert decoded.indices.tolist() == [2]
        assert [error for _, error in texts(decoded)] == [
            "the value at [0, 1, 0] is missing or not finite",
            "no image (null)",
            "2 values, but shape [2, 2, 1] has 4",
        ]


def test_the_bounds_of_the_range_are_in_it():
    for bound in (0.1, -0.1):
        column = pa.array(values([bound] * 4, dtype="<f4"), pa.binary())
        assert decode(column, image_format((2, 2, 1), (-0.1, 0.1))).indices.tolist() == [0]


def test_a_model_that_does_not_record_its_range_takes_any_finite_value():
    column = pa.array([[1e30, -5, 0, 0], [np.nan, 0, 0, 0], [1e300, 0, 0, 0]], pa.list_(pa.float64()))
    assert decode(column, image_format((2, 2, 1), is_range_known=False)).indices.tolist() == [0]


def test_pictures_are_resized_or_refused_as_in_training():
    content = io.BytesIO()
    Image.effect_noise((56, 56), 90).save(content, "PNG")
    column = pa.array([content.getvalue()], pa.binary())
    expected = decode_image(content.getvalue(), SHAPE, (0.0, 255.0), digits=False)
    np.testing.assert_array_equal(decode(column, image_format(content="encoded")).images[0], expected)
    decoded = decode(column, image_format(content="encoded", resize=False))
    assert texts(decoded) == (
        (0, "is 56 x 56, but the model was trained on pictures of 28 x 28 only; --form picture resizes it"),
    )


def test_label_values_have_64_bits_only_where_they_need_them():
    assert label_dtype((-(2**31), 2**31 - 1)) == np.int32
    assert label_dtype((0, 2**31)) == label_dtype((-(2**31) - 1, 0)) == np.int64


VECTOR = pa.struct(
    [("type", pa.int8()), ("size", pa.int32()), ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))]
)


def dense(*numbers):
    return {"type": 1, "size": None, "indices": None, "values": list(numbers)}


def sparse(size, **entries):
    return {"type": 0, "size": size, "indices": [int(name[1:]) for name in entries], "values": list(entries.values())}


def test_dense_and_sparse_vectors_are_rows_of_features():
    column = pa.array([dense(1, 2, 3), sparse(3, i2=9.5), None, sparse(3), dense(1, 2), sparse(4, i3=1.0)], VECTOR)
    for part in (column, pa.concat_arrays([column, column]).slice(6)):
        decoded = decode(part, image_format((3,)))
        assert decoded.images.tolist() == [[1, 2, 3], [0, 0, 9.5], [0, 0, 0]]
        assert decoded.indices.tolist() == [0, 1, 3]
        assert texts(decoded) == (
            (2, "no features (null)"),
            (4, "2 values, but shape [3] has 3"),
            (5, "4 values, but shape [3] has 3"),
        )


def spark_image(picture):
    pixels = np.asarray(picture)
    order = [2, 1, 0, 3][: pixels.shape[2]] if pixels.ndim == 3 else ...
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    size = {"height": pixels.shape[0], "width": pixels.shape[1], "nChannels": channels, "mode": 16}
    return {"origin": "a.png", "data": pixels[..., order].tobytes() if channels > 1 else pixels.tobytes(), **size}


def test_pictures_of_sparks_image_format_and_of_hugging_face_are_decoded_as_files_are():
    fields = [("origin", pa.string()), ("height", pa.int32()), ("width", pa.int32()), ("nChannels", pa.int32())]
    kind = pa.struct([*fields, ("mode", pa.int32()), ("data", pa.binary())])
    picture = Image.merge("RGB", [Image.effect_noise((6, 5), sigma) for sigma in (40, 60, 90)])
    content = io.BytesIO()
    picture.save(content, "PNG")
    for shape, shown in (((5, 6, 3), picture), ((5, 6, 1), picture.convert("L")), ((5, 6, 4), picture.convert("RGBA"))):
        expected = np.asarray(shown).reshape(shape)
        undecoded = {"origin": "b.png", "height": -1, "width": -1, "nChannels": -1, "mode": -1, "data": b""}
        decoded = decode(pa.array([spark_image(shown), None, undecoded], kind), image_format(shape))
        np.testing.assert_array_equal(decoded.images, [expected])
        assert texts(decoded)[0] == (1, "no image (null)")
        assert texts(decoded)[1][1].startswith("not an image that can be read")
        files = pa.array(
            [{"bytes": content.getvalue(), "path": "a"}, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        )
        decoded = decode(files, image_format(shape))
        np.testing.assert_array_equal(decoded.images, [np.asarray(picture.convert(shown.mode)).reshape(shape)])
        assert texts(decoded) == ((1, "no image (null)"),)
