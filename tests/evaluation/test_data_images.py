"""Images of every kind, written by Pillow, brought to one input."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgenas.errors import InputError
from edgenas.evaluation.data import images as images_module
from edgenas.evaluation.data import prepare_arrays, prepare_image
from edgenas.evaluation.data.arrays import value_range
from edgenas.evaluation.data.images import decode_image


def written(image: Image.Image, name: str, folder: Path, **settings: object) -> Path:
    path = folder / name
    image.save(path, **settings)
    return path


def halves(mode: str, left: object, right: object, size: tuple[int, int] = (8, 8)) -> Image.Image:
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, size[0], size[1]))
    return image


def test_colour_becomes_grey_by_601_luma_and_grey_becomes_colour(tmp_path: Path) -> None:
    colour = written(halves("RGB", (255, 0, 0), (0, 255, 0)), "c.png", tmp_path)
    grey = prepare_image(colour, (8, 8, 1))
    assert grey.shape == (8, 8, 1) and grey.dtype == np.uint8
    assert grey[0, 0, 0] == 76 and grey[0, 7, 0] in (149, 150)
    repeated = prepare_image(written(halves("L", 10, 200), "g.png", tmp_path), (8, 8, 3))
    assert repeated[0, 0].tolist() == [10, 10, 10] and repeated[0, 7].tolist() == [200, 200, 200]


def test_transparent_parts_are_black(tmp_path: Path) -> None:
    alpha = halves("RGBA", (200, 100, 50, 255), (200, 100, 50, 0))
    pixels = prepare_image(written(alpha, "a.png", tmp_path), (8, 8, 3))
    assert pixels[0, 0].tolist() == [200, 100, 50] and pixels[0, 7].tolist() == [0, 0, 0]
    half = prepare_image(written(Image.new("LA", (8, 8), (200, 128)), "la.png", tmp_path), (8, 8, 1))
    assert abs(int(half[0, 0, 0]) - 100) <= 1
    keyed = written(halves("RGB", (1, 2, 3), (9, 9, 9)), "key.png", tmp_path, transparency=(9, 9, 9))
    assert prepare_image(keyed, (8, 8, 3))[0, 7].tolist() == [0, 0, 0]


def test_palette(tmp_path: Path) -> None:
    palette = halves("RGB", (250, 0, 0), (0, 0, 250)).convert("P", palette=Image.Palette.ADAPTIVE)
    pixels = prepare_image(written(palette, "p.gif", tmp_path), (8, 8, 3))
    assert pixels[0, 0].tolist() == [250, 0, 0] and pixels[0, 7].tolist() == [0, 0, 250]


def test_one_bit(tmp_path: Path) -> None:
    assert prepare_image(written(halves("1", 0, 1), "b.png", tmp_path), (8, 8, 1))[0, 7, 0] == 255


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = written(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "c.jpg", tmp_path)
    red, green, blue = prepare_image(path, (16, 16, 3))[8, 8].tolist()
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257, 32896, 65535]] * 4, np.uint16)
    path = written(Image.fromarray(values), f"x.{suffix}", tmp_path)
    assert prepare_image(path, (4, 4, 1))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("top", [255, 65535, 2**31 - 1])
def test_thirty_two_bit_integers_use_the_narrowest_range(tmp_path: Path, top: int) -> None:
    values = np.array([[0, top // 2, top]] * 3, np.int32)
    pixels = prepare_image(written(Image.fromarray(values), "x.tif", tmp_path), (3, 3, 1))[0, :, 0].tolist()
    white = 255 if top < 2**31 - 1 else 128  # half of unsigned 32 bits
    assert pixels[0] == 0 and abs(pixels[2] - white) <= 1 and abs(pixels[1] - white // 2) <= 1


def tiff(values: np.ndarray, bits: int = 16, photometric: int = 1, **tags: int) -> bytes:
    """Written by hand: Pillow writes no such ones."""
    high, wide = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(int)
        pixels = bytes(b for a, c in pairs for b in (a >> 4, (a & 15) << 4 | c >> 8, c & 255))
    else:
        pixels = values.astype("<u2").tobytes()
    entries = {256: wide, 257: high, 258: bits, 259: 1, 262: photometric, 277: 1, 278: high, 279: len(pixels)}
    entries |= {int(tag[1:]): value for tag, value in tags.items()}
    entries[273] = 8 + 2 + 12 * (len(entries) + 1) + 4
    rows = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in sorted(entries.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + rows + bytes(4) + pixels


GREYS = np.array([[0, 1024, 2048, 4095]] * 4)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tiff(GREYS, bits=12), [0, 64, 128, 255]),
        (tiff(GREYS, t281=4095), [0, 64, 128, 255]),
        (tiff(GREYS, t281=2000), [0, 4, 8, 16]),  # cannot be: there are larger values
        (tiff(GREYS, t281=1), [0, 4, 8, 16]),
        (tiff(65535 - 257 * np.array([[0, 1, 200, 255]] * 4), photometric=0), [0, 1, 200, 255]),
        (tiff(4095 - GREYS, photometric=0, t281=4095), [0, 64, 128, 255]),
    ],
)
def test_a_file_that_tells_its_range_is_read_by_it(content: bytes, expected: list[int]) -> None:
    pixels = prepare_image(content, (4, 4, 1))[0, :, 0]
    assert np.abs(pixels.astype(int) - expected).max() <= 1


def png_of_16_bits(values: np.ndarray) -> bytes:
    """[h, w, 3]: Pillow writes grey of 16 bits alone."""
    high, wide, _ = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", wide, high, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


@pytest.mark.parametrize("top", [4095, 65535])
def test_how_much_of_its_range_an_image_uses(tmp_path: Path, top: int) -> None:
    values = (GREYS * (top / 4095)).astype(np.uint16)
    written(Image.fromarray(values), "grey.png", tmp_path)
    written(Image.fromarray(values.astype(np.int32)), "wide.tif", tmp_path)
    (tmp_path / "colour.png").write_bytes(png_of_16_bits(np.repeat(values[..., np.newaxis], 3, axis=2)))
    for path in tmp_path.iterdir():
        assert decode_image(path, (4, 4, 1))[1] == pytest.approx(top / 65535, abs=0.01), path.name
    dark = written(Image.new("RGB", (4, 4), (9, 9, 9)), "dark.png", tmp_path)
    assert decode_image(dark, (4, 4, 1))[1] == 1, "8 bits: dark, and meant so"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "CMYK"])
def test_large_images_are_converted_in_bands(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[0:70, 0:50]
    if mode == "I;16":
        image = Image.fromarray((x * 500 + y * 400).astype(np.uint16))
    else:
        image = Image.fromarray(np.stack([x * 4, y * 3, 255 - x, 255 - y], -1).astype(np.uint8)).convert(mode)
    image.info["transparency"] = 3
    expected = {side: prepare_image(image, (side, side, 3)).astype(int) for side in (6, 60)}
    monkeypatch.setattr(images_module, "_BAND", 64)
    assert (prepare_image(image, (60, 60, 3)) == expected[60]).all()
    assert np.abs(prepare_image(image, (6, 6, 3)) - expected[6]).max() <= 6


def test_negative_and_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    below = written(Image.fromarray(np.full((3, 3), -5, np.int32)), "n.tif", tmp_path)
    with pytest.raises(InputError, match="negative pixels"):
        prepare_image(below, (3, 3, 1))
    real = written(Image.fromarray(np.ones((3, 3), np.float32)), "f.tif", tmp_path)
    with pytest.raises(InputError, match="floating-point pixels have no stated range"):
        prepare_image(real, (3, 3, 1))


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_exif_rotation_is_applied(tmp_path: Path, mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees to the right
    image = halves("L", 0, 255)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    pixels = prepare_image(written(image, "e.png", tmp_path, exif=exif), (8, 8, 1))
    assert pixels[0].max() == 0 and pixels[7].min() == 255


def test_policies() -> None:
    wide = halves("L", 100, 200, (40, 20))
    fit = prepare_image(wide, (10, 10, 1), "fit")
    assert fit.min() >= 100 and fit[5, 0, 0] == 100 and fit[5, 9, 0] == 200
    pad = prepare_image(wide, (10, 10, 1), "pad")
    assert pad[:2].max() == 0 and pad[8:].max() == 0 and pad[5, 0, 0] == 100 and pad[5, 9, 0] == 200
    striped = Image.new("L", (40, 20), 0)
    striped.paste(255, (10, 0, 30, 20))
    crop = prepare_image(striped, (10, 10, 1), "crop")
    assert crop[:, 1:-1].min() == 255 and crop.min() > 200  # the filter reaches a little past the cut


def test_shrinking_is_antialiased() -> None:
    board = Image.fromarray(((np.indices((256, 256)).sum(axis=0) % 2) * 255).astype(np.uint8))
    pixels = prepare_image(board, (16, 16, 1))
    assert pixels.min() >= 120 and pixels.max() <= 135


def test_a_thin_image_keeps_a_row() -> None:
    assert prepare_image(Image.new("L", (1000, 1), 255), (8, 8, 1), "pad").max() == 255


def test_a_large_jpeg_is_the_same_with_draft_decoding() -> None:
    gradient = Image.fromarray(np.tile(np.linspace(0, 255, 1600).astype(np.uint8), (1600, 1)))
    buffer = io.BytesIO()
    gradient.save(buffer, "JPEG", quality=95)
    reduced = prepare_image(buffer.getvalue(), (32, 32, 1)).astype(int)
    whole = prepare_image(gradient, (32, 32, 1)).astype(int)
    assert np.abs(reduced - whole).max() <= 3


def test_no_image_a_truncated_one_and_a_bomb_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"there is no file .*nothing.png"):
        prepare_image(tmp_path / "nothing.png", (8, 8, 1))
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    with pytest.raises(InputError, match="no image of a known format"):
        prepare_image(text, (8, 8, 1))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole = written(noise, "w.jpg", tmp_path).read_bytes()
    with pytest.raises(InputError, match=r"cannot be decoded: .*truncated"):
        prepare_image(whole[: len(whole) // 2], (8, 8, 1))
    with pytest.raises(InputError, match=r"known format|cannot be decoded"):
        prepare_image(b"", (8, 8, 1))
    reduced = prepare_image(whole, (8, 8, 1))
    monkeypatch.setattr(images_module, "MAX_PIXELS", 1000)
    assert (prepare_image(whole, (8, 8, 1)) == reduced).all(), "a large photograph is reduced while it is decoded"
    with pytest.raises(InputError, match="64 x 64 pixels: at most 1,000"):
        prepare_image(whole, (32, 32, 1))
    for name, settings in (("p.jpg", {"progressive": True}), ("l.png", {})):
        with pytest.raises(InputError, match=r"64 x 64 pixels: at most 1,000 are decoded\. .* baseline JPEG"):
            prepare_image(written(noise, name, tmp_path, **settings), (8, 8, 1))
    with pytest.raises(InputError, match="30 x 30 pixels: at most 500"):
        prepare_image(written(noise.crop((0, 0, 30, 30)), "c.jp2", tmp_path), (8, 8, 1))
    monkeypatch.setattr(images_module, "JPEG_TIMES", 4)
    with pytest.raises(InputError, match="64 x 64 pixels: at most 4,000"):
        prepare_image(whole, (8, 8, 1))


def test_an_eps_file_never_starts_ghostscript() -> None:
    with pytest.raises(InputError, match="no image of a known format"):
        prepare_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", (8, 8, 1))


def test_bad_settings() -> None:
    image = Image.new("L", (4, 4))
    with pytest.raises(InputError, match=r"received 'padd'. Did you mean 'pad'\?"):
        prepare_image(image, (8, 8, 1), "padd")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"1 .grey. or 3 .colour. channels.*received 8x8x2"):
        prepare_image(image, (8, 8, 2))


def test_arrays_of_each_type() -> None:
    bytes_ = np.array([[[0, 255], [128, 7]]], np.uint8)
    assert prepare_arrays(bytes_, (2, 2, 1))[..., 0].tolist() == bytes_.tolist()
    assert prepare_arrays(bytes_.astype(np.uint16) * 257, (2, 2, 1))[..., 0].tolist() == bytes_.tolist()
    assert prepare_arrays(bytes_ / 255, (2, 2, 1))[..., 0].tolist() == bytes_.tolist()
    assert prepare_arrays(bytes_.astype(np.float32), (2, 2, 1))[..., 0].tolist() == bytes_.tolist()
    assert prepare_arrays(bytes_.astype(np.int64), (2, 2, 1))[..., 0].tolist() == bytes_.tolist()
    assert prepare_arrays(bytes_ > 100, (2, 2, 1))[..., 0].tolist() == [[[0, 255], [255, 0]]]
    assert prepare_arrays(bytes_, (4, 4, 3)).shape == (1, 4, 4, 3)


def test_how_an_array_was_read_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    prepare_arrays(np.full((1, 2, 2), 0.5, np.float32), (2, 2, 1))
    assert "float32 with values up to 0.5: read as 0..1" in caplog.text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 0.5, 1.0000001]), [0, 128, 255]),
        (np.array([-1e-7, 0.5, 1.005], np.float32), [0, 128, 255]),
        (np.array([0, 128, 255.3]), [0, 128, 255]),
        (np.array([-0.4, 128, 200], np.float16), [0, 128, 200]),
        (np.array([0, 2048, 4095], np.uint16), [0, 128, 255]),
        (np.array([0, 512, 1023], np.uint16), [0, 128, 255]),
        (np.array([0, 8192, 16383], np.uint16), [0, 128, 255]),
        (np.array([0, 0, 0], np.int64), [0, 0, 0]),
    ],
)
def test_values_that_are_nearly_in_range_are_clipped(values: np.ndarray, expected: list[int]) -> None:
    pixels = prepare_arrays(values.reshape(1, 1, 3), (1, 3, 1))[0, 0, :, 0].astype(int)
    assert np.abs(pixels - expected).max() <= 1


def test_dark_bytes_are_said() -> None:
    assert value_range(np.array([0, 1], np.uint8)) == (
        255, "x is uint8 with values up to 1, of 255 that are white: the images are nearly black.",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((1, 2, 2), np.nan), "NaN or infinite"),
        (np.full((1, 2, 2), -1.0), "Undo the normalisation"),
        (np.array([[[-1.0, 1.0]]]), "Undo the normalisation"),
        (np.array([[[-3.1, 200.0]]]), "Undo the normalisation"),
        (np.array([[[0, 1.3]]]), r"received float64 of 0..1.3. .*white is 255"),
        (np.array([[[0, 16.0]]]), "white is 255"),
        (np.array([[[0, 1]]]), "received int64 of 0..1. .*white is 255"),
        (np.array([[[0, 15]]], np.int8), "white is 255"),
        (np.full((1, 2, 2), 300), "expected pixels of 0..255"),
        (np.full((1, 2, 2), "a"), "expected numbers"),
        (np.zeros((5, 7)), "received \\[5, 7\\]"),
        (np.zeros((5, 3, 8, 8)), "Move the channels to the end"),
        (np.zeros((0, 8, 8)), "received \\[0, 8, 8\\]"),
    ],
)
def test_arrays_that_are_no_images(x: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare_arrays(x, (8, 8, 1))
