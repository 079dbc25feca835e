"""Files of images with broken or large metadata, which is left aside, and files that would take all memory."""

import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgenas.errors import InputError
from edgenas.evaluation.data import load_dataset, prepare_image

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8))
SHAPE = (12, 8, 3)


def written(form: str, image: Image.Image = NOISE, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


def chunk(name: bytes, data: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(name + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)


def png(*chunks: bytes) -> bytes:
    """With chunks before the picture, and again behind it."""
    content = written("PNG")
    return content[:33] + b"".join(chunks) + content[33:-12] + b"".join(chunks) + content[-12:]


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    content = written("JPEG")
    added = b"".join(b"\xff" + bytes([kind]) + struct.pack(">H", len(data) + 2) + data for kind, data in segments)
    return content[:2] + added + content[2:]


def packed(size: int) -> bytes:
    return zlib.compress(bytes(size))


# An orientation of 6 and two entries that lead nowhere.
ENTRIES = ((0x10F, 2, 5_000_000, 2**31 - 1), (0x112, 3, 1, 6), (0x8769, 4, 1, 2**32 - 9))
TURNED = b"Exif\0\0II*\0\x08\0\0\0\x03\0" + b"".join(struct.pack("<HHII", *entry) for entry in ENTRIES)
BROKEN = {
    "png: text that unpacks to 5 MB": png(chunk(b"zTXt", b"k\0\0" + packed(5_000_000))),
    "png: international text of 5 MB": png(chunk(b"iTXt", b"k\0\1\0\0\0" + packed(5_000_000))),
    "png: many texts": png(*[chunk(b"zTXt", b"k\0\0" + packed(1_000_000))] * 70),
    "png: a colour profile of 5 MB": png(chunk(b"iCCP", b"k\0\0" + packed(5_000_000))),
    "png: a colour profile of an unknown kind": png(chunk(b"iCCP", b"k\0\7garbage")),
    "png: a wrong checksum of a text": png(chunk(b"tEXt", b"k\0v", 0)),
    "png: a wrong checksum of the EXIF": png(chunk(b"eXIf", TURNED[6:], 0)),
    "png: EXIF that is none": png(chunk(b"eXIf", b"garbage")),
    "png: short chunks": png(*(chunk(name, b"\0") for name in (b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"acTL"))),
    "jpeg: EXIF that is none": jpeg((0xE1, b"Exif\0\0garbage")),
    "jpeg: several pictures that are not there": jpeg((0xE2, b"MPF\0II*\0\x08\0\0\0\3\0" + b"\xff" * 36)),
    "jpeg: short segments": jpeg((0xE0, b"JFIF"), (0xEE, b"Adobe"), (0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\xff\xff")),
    "jpeg: parts of a colour profile": jpeg((0xE2, b"ICC_PROFILE\0\x09\2xx"), (0xFE, b"\xff" * 60_000)),
    "webp: EXIF that is none": written("WEBP", lossless=True, exif=b"Exif\0\0garbage"),
    "webp: a colour profile that is none": written("WEBP", lossless=True, icc_profile=b"garbage"),
    "tiff: a colour profile that is none": written("TIFF", icc_profile=b"garbage"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_metadata_costs_no_image_its_pixels(kind: str) -> None:
    expected = prepare_image(written("JPEG") if kind.startswith("jpeg") else NOISE, SHAPE)
    assert (prepare_image(BROKEN[kind], SHAPE) == expected).all()


@pytest.mark.filterwarnings("ignore:.*EXIF data", "ignore:Tag data larger")
@pytest.mark.parametrize(
    "content",
    [
        png(chunk(b"eXIf", TURNED[6:])),
        png(chunk(b"eXIf", TURNED[6:]), chunk(b"tEXt", b"k\0v", 0)),
        jpeg((0xE1, TURNED)),
        jpeg((0xEE, b"Adobe"), (0xE1, TURNED)),
        written("WEBP", lossless=True, exif=TURNED),
    ],
    ids=["png", "png with a broken text", "jpeg", "jpeg with a short segment", "webp"],
)
def test_an_orientation_among_broken_entries_is_applied(content: bytes) -> None:
    upright = NOISE.transpose(Image.Transpose.ROTATE_270)
    apart = np.abs(prepare_image(content, (8, 12, 3)).astype(int) - np.asarray(upright)).mean()
    assert apart < (60 if content.startswith(b"\xff") else 1e-9), "a JPEG keeps little of noise"


@pytest.mark.parametrize("content", [png(), jpeg((0xEE, b"Adobe"))], ids=["png", "jpeg"])
def test_a_damaged_picture_is_still_refused(content: bytes) -> None:
    with pytest.raises(InputError, match="cannot be decoded"):
        prepare_image(content[: len(content) * 3 // 4], SHAPE)


def webp(kind: bytes, header: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", 48) + header
    body += bytes(60 - len(body))
    return b"RIFF" + struct.pack("<I", len(body)) + body


def png_of(side: int, depth: int = 8) -> bytes:
    head = struct.pack(">IIBBBBB", side, side, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed(30)) + chunk(b"IEND", b"")


def jpeg_of(side: int, progressive: bool = False) -> bytes:
    content = written("JPEG", Image.new("L", (8, 8)), progressive=progressive)
    at = content.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", side, side) + content[at + 4 :]


def tiff_of(side: int, tile: int = 0) -> bytes:
    tags = {256: side, 257: side, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: 2 * side * side % 2**32}
    if tile:
        tags |= {259: 8, 322: tile, 323: tile, 324: 8, 325: 100}
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + rows + bytes(4)


BOMBS = {
    "webp of 68 bytes": (webp(b"VP8L", struct.pack("<BI", 47, 16382 | 16382 << 14)), "16383 x 16383 pixels: at most"),
    "webp, extended": (webp(b"VP8X", bytes(4) + b"\xff\x3f\0" * 2), "16384 x 16384 pixels: at most"),
    "webp, lossy": (webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a\xff\x3f\xff\x3f"), "16383 x 16383 pixels: at most"),
    "webp, above its own limit": (webp(b"VP8L", struct.pack("<BI", 47, 7000 | 7000 << 14)), "at most 32,000,000"),
    "webp, within the limit": (webp(b"VP8L", struct.pack("<BI", 47, 5000 | 5000 << 14)), "a decompression bomb"),
    "png": (png_of(60_000), "too many pixels: at most"),
    "png, within the limit": (png_of(7_900, 16), "claims 7900 x 7900 pixels: a decompression bomb"),
    "ppm": (b"P5 7900 7900 65535\n", "a decompression bomb"),
    "gif": (b"GIF89a\xff\x7f\xff\x1f\0\0\0,\0\0\0\0\xff\x7f\xff\x1f\0\2\0\0;", "too many pixels: at most"),
    "tiff": (tiff_of(7_900), "a decompression bomb"),
    "tiff, a tile": (tiff_of(8, tile=30_000), "30000 x 30000 pixels: at most"),
    "tiff, a tile within the limit": (tiff_of(8, tile=7_900), "claims 7900 x 7900 pixels: a decompression bomb"),
    "jpeg": (jpeg_of(65_000), "65000 x 65000 pixels: at most 512,000,000"),
    "jpeg, within the limit": (jpeg_of(20_000), "a decompression bomb"),
    "jpeg, progressive": (jpeg_of(9_000, progressive=True), "9000 x 9000 pixels: at most 64,000,000"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_by_its_header(kind: str) -> None:
    content, words = BOMBS[kind]
    assert len(content) < 1000
    with pytest.raises(InputError, match=words):
        prepare_image(content, SHAPE)


PEAK = """
import resource, sys
from pathlib import Path
from edgenas.errors import InputError
from edgenas.evaluation.data import load_dataset, prepare_image
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepare_image(Path(sys.argv[1]), (8, 8, 3))
before = peak()
for name in sys.argv[2:]:
    try:
        prepare_image(Path(name), (8, 8, 3))
    except InputError:
        pass
print((peak() - before) // 1024)
"""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[str]]:
    contents = [written("WEBP"), *(content for content, _ in BOMBS.values())]
    for number, content in enumerate(contents):
        (tmp_path / f"{number:02}").write_bytes(content)
    yield [str(path) for path in sorted(tmp_path.iterdir())]


def test_bombs_take_no_memory(files: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK, *files], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100, "MB"


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "photo.jpg")
    with pytest.raises(InputError, match="cannot be decoded: it is no file"):
        prepare_image(tmp_path / "photo.jpg", SHAPE)
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="cannot be decoded: it is no file"):
        prepare_image(tmp_path / "endless.jpg", SHAPE)


def test_arrays_in_any_order_of_memory_are_read(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "c.npz", x=x, y=y)
    np.savez(tmp_path / "fortran.npz", x=np.asfortranarray(x), y=y)
    c, fortran = (load_dataset(str(tmp_path / f"{name}.npz"), (8, 8, 3), cache=tmp_path / "cache")
                  for name in ("c", "fortran"))  # fmt: skip
    assert (c.x == fortran.x).all() and (c.x == x).all()


def test_what_is_no_array_is_not_read(tmp_path: Path) -> None:
    """Bytes in the place of an array may be very many."""
    with zipfile.ZipFile(tmp_path / "bytes.npz", "w") as archive:
        archive.writestr("x.npy", b"\0" * 1000)
        archive.writestr("y.npy", b"\0" * 1000)
    with pytest.raises(InputError, match=r"bytes.npz cannot be read: .*magic"):
        load_dataset(str(tmp_path / "bytes.npz"), (8, 8, 3), cache=tmp_path / "cache")
