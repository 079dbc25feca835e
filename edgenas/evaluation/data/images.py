"""One image, whatever it was, as raw pixels of the input's size: uint8, [H, W, C], 0..255.

Scaling is bilinear, and antialiased when it shrinks (Pillow widens the filter with the scale).
"""

import contextlib
import io
import math
import threading
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

import edgenas.files as files
from edgenas.errors import InputError, near
from edgenas.evaluation.data.metadata import webp_size, without_metadata

Pixels = NDArray[np.uint8]
InputShape = tuple[int, int, int]

Policy = Literal["fit", "crop", "pad"]
"""How an image of any size is brought to the input's H x W.

- `fit`: stretched to H x W. Nothing is lost; the aspect ratio changes.
- `crop`: scaled, aspect ratio kept, until it just covers H x W; the centre is cut out and what sticks out is lost.
- `pad`: scaled, aspect ratio kept, until it just fits inside H x W; centred, the rest black (zeros).
"""

DEFAULT_POLICY: Policy = "pad"
"""`pad`: the only one that neither cuts off nor distorts what is to be recognised. Where the aspect ratio of the
images is the input's, all three are the same."""

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is opened. Named, so that no other decoder (some start programs) ever sees a user's file."""

MAX_PIXELS = 64_000_000
"""An image is decoded to at most so many pixels (256 MB as RGB); half as many of `COSTLY` formats, whose decoders hold
several copies. A JPEG is reduced while it is decoded, so a baseline one may have `JPEG_TIMES` as many; of a progressive
one the decoder holds all."""
JPEG_TIMES = 8
COSTLY = ("AVIF", "JPEG2000", "WEBP")
MAX_PIXELS_PER_BYTE = 10_000
"""A file that claims more is a decompression bomb: PNG's best is 8,256, on an empty picture of one bit."""

UNUSED = 0.25
"""Of 16 bits and more: where an image's brightest value is at most this share of white, most of the range is unused."""
_LARGEST_BYTES = 512 << 20  # of a file
_LARGE = 16_000_000  # pixels; larger ones are decoded one at a time, whatever the number of threads
_BAND = 2**20  # pixels that are converted at a time
_one_large = threading.Lock()
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_BITS, _PHOTOMETRIC, _MAX_SAMPLE, _TILE, _SAMPLE_FORMAT = 258, 262, 281, (322, 323), 339  # tags of TIFF


def check_policy(policy: str) -> Policy:
    """`policy` if it is one.

    Raises:
        InputError: it is not; the near one is offered.
    """
    for known in get_args(Policy):
        if policy == known:
            return policy  # type: ignore[return-value]
    raise InputError(f"Expected a policy for images, received {policy!r}. {near(str(policy), get_args(Policy))}")


def check_input_shape(input_shape: tuple[int, ...]) -> InputShape:
    """`(H, W, C)` if images can be brought to it.

    Raises:
        InputError: it has not three whole numbers above zero, or C is not 1 or 3.
    """
    shape = tuple(int(side) for side in input_shape)
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in (1, 3):
        raise InputError(
            f"Expected an input of height x width x channels with 1 (grey) or 3 (colour) channels, such as 96x96x3; "
            f"received {'x'.join(str(side) for side in input_shape)}."
        )
    return shape[0], shape[1], shape[2]


def prepare_image(
    source: str | Path | bytes | Image.Image, input_shape: tuple[int, ...], policy: Policy = DEFAULT_POLICY
) -> Pixels:
    """An image as the raw pixels a model takes.

    EXIF rotation is applied; other metadata is not read, and costs an image nothing if it is broken. Colour becomes
    grey by ITU-R 601 luma (0.299 R + 0.587 G + 0.114 B), grey becomes colour by repetition. Transparent parts show
    black, as the padding does. Of several frames the first is taken. Grey of 16 bits is divided by what white is: what
    a TIFF says (BitsPerSample, MaxSampleValue; turned round where it says WhiteIsZero), else 65535. 32-bit integer
    grey is scaled from the narrowest of 8, 16 and 32 bits that holds its maximum.

    Args:
        source: a path, the bytes of a file, or an opened Pillow image.
        input_shape: (H, W, C), C = 1 or 3.
        policy: how its size is changed.

    Returns:
        uint8, [H, W, C].

    Raises:
        InputError: no image, a damaged one, too many pixels (see `MAX_PIXELS`), or floating-point pixels.
    """
    return decode_image(source, input_shape, policy)[0]


def decode_image(
    source: str | Path | bytes | Image.Image, input_shape: tuple[int, ...], policy: Policy = DEFAULT_POLICY
) -> tuple[Pixels, float]:
    """As `prepare_image`, and how bright its brightest value is, as a share of white; 1 for 8 bits or fewer."""
    height, width, channels = check_input_shape(input_shape)
    policy = check_policy(policy)
    try:
        if isinstance(source, Image.Image):
            plain, used = _plain(source, height, width)
        else:
            plain, used = _decode(source if isinstance(source, bytes) else _content(Path(source)), height, width)
        sized = _resize(plain, height, width, policy).convert("L" if channels == 1 else "RGB")
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"no image of a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(_too_many("too many", MAX_PIXELS)) from None
    except FileNotFoundError as error:
        raise InputError(f"there is no file {error.filename}") from None
    except Exception as error:  # noqa: BLE001 -- a decoder may raise anything on a damaged file
        raise InputError(f"cannot be decoded: {error or type(error).__name__}") from None
    return np.asarray(sized, dtype=np.uint8).reshape(height, width, channels), used


def _decode(content: bytes, height: int, width: int) -> tuple[Image.Image, float]:
    """See `_plain`. What cannot be decoded is tried again without its metadata."""
    try:
        return _plain(_open(content), height, width, len(content))
    except (InputError, MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise
    except Exception:
        bare = without_metadata(content)
        if bare is None:
            raise
        return _plain(_open(bare), height, width, len(content))


def _content(path: Path) -> bytes:
    return files.read_small(path, _LARGEST_BYTES)


def _open(content: bytes) -> Image.Image:
    if content.startswith(b"\xff\xd8\xff"):
        return JpegImageFile(io.BytesIO(content))  # Pillow's bound is not asked: `draft` comes first
    if size := webp_size(content):
        _check_size(size, len(content), MAX_PIXELS // 2)  # its decoder takes memory when it is opened
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # an older Pillow has no AVIF
    return Image.open(io.BytesIO(content), formats=known)


def _too_many(pixels: str, most: int) -> str:
    return (
        f"{pixels} pixels: at most {most:,} are decoded. Make it smaller, or save it as a baseline JPEG, which is "
        "reduced while it is decoded"
    )


def _check_size(size: tuple[int, int], size_bytes: int | None, most: int) -> None:
    """Before memory is taken; size_bytes: of the file, None for an image that was opened elsewhere."""
    pixels = size[0] * size[1]
    if pixels > most:
        raise InputError(_too_many(f"{size[0]} x {size[1]}", most))
    if size_bytes is not None and pixels > MAX_PIXELS_PER_BYTE * size_bytes:
        raise InputError(f"a file of {size_bytes:,} bytes claims {size[0]} x {size[1]} pixels: a decompression bomb")


def _plain(image: Image.Image, height: int, width: int, size_bytes: int | None = None) -> tuple[Image.Image, float]:
    """The picture as "L" or "RGB", upright, large enough for height x width; and see `decode_image`."""
    if size_bytes is not None and isinstance(image, JpegImageFile):
        _check_size(image.size, size_bytes, MAX_PIXELS * (1 if image.info.get("progressive") else JPEG_TIMES))
        # It decodes at 1/2, 1/4 or 1/8 of its size when that is still twice the input's.
        image.draft(None, (2 * max(height, width), 2 * max(height, width)))
    _check_size(image.size, size_bytes, MAX_PIXELS // 2 if image.format in COSTLY else MAX_PIXELS)
    wide, high = (_tag(image, side) for side in _TILE)
    if isinstance(wide, int) and isinstance(high, int):
        _check_size((wide, high), size_bytes, MAX_PIXELS)  # libtiff takes a whole tile's memory
    deep = image.format in ("PNG", "TIFF") and any(";16" in str(tile) for tile in getattr(image, "tile", []))
    with _one_large if image.width * image.height > _LARGE else contextlib.nullcontext():
        image.load()
        plain, used = _eight_bits(image, height, width)
        if deep and used is None:
            tops: Any = plain.getextrema()
            used = max(np.ravel(tops)) / 255
        return _upright(plain, image), 1.0 if used is None else float(used)


def _upright(plain: Image.Image, origin: Image.Image) -> Image.Image:
    """As EXIF says it is shown."""
    try:
        orientation = origin.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 -- metadata of any kind, read by Pillow: no reason to lose the picture
        return plain
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return plain if turn is None else plain.transpose(turn)


def _eight_bits(image: Image.Image, height: int, width: int) -> tuple[Image.Image, float | None]:
    """The same picture as "L" or "RGB"; a large one of another kind in bands, each reduced at once."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image, None
    if image.mode == "F":
        raise InputError(
            "floating-point pixels have no stated range: store it with 8 or 16 bits, or give the data as an .npz"
        )
    white, used = _white(image) if image.mode.startswith("I") else (255, None)
    inverted = _tag(image, _PHOTOMETRIC) == 0

    def convert(part: Image.Image) -> Image.Image:
        if part.mode.startswith("I"):
            values = np.asarray(part)
            pixels = scale_to_bytes(values.view(np.uint32) if part.mode == "I" else values, white)
            return Image.fromarray(255 - pixels if inverted else pixels)
        if part.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in part.info:
            colour = part.convert("LA").convert("RGBA") if part.mode == "La" else part.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", colour.size, (0, 0, 0, 255)), colour).convert("RGB")
        return part.convert("L" if part.mode == "1" else "RGB")

    if image.width * image.height <= 4 * _BAND:
        return convert(image), used
    factor = max(1, int(min(image.size) / max(height, width) / 3))
    rows = factor * max(1, _BAND // image.width // factor)
    out: Image.Image | None = None
    for top in range(0, image.height, rows):
        band = convert(image.crop((0, top, image.width, min(top + rows, image.height)))).reduce(factor)
        out = out or Image.new(band.mode, (band.width, -(-image.height // factor)))
        out.paste(band, (0, top // factor))
    assert out is not None
    return out, used


def _tag(image: Image.Image, tag: int) -> Any:
    """Of a TIFF; None where it is not there."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def _white(image: Image.Image) -> tuple[int, float]:
    """What white is in integer grey of more than 8 bits (modes "I;16...", "I"), and the share of it that is used."""
    extremes: Any = image.getextrema()
    least, most = extremes
    bits, stated = _tag(image, _BITS), _tag(image, _MAX_SAMPLE)
    full = 65535 if image.mode.startswith("I;16") or image.format in ("PNG", "PPM") else 2**32 - 1
    if least < 0:
        if _tag(image, _SAMPLE_FORMAT) != 1:
            raise InputError(f"negative pixels (down to {least}): store it as unsigned integers of 8 or 16 bits")
        most = full  # unsigned: a value past 2^31 looks negative
    if isinstance(stated, int) and stated >= 255 and most <= stated:
        white = stated
    elif image.mode.startswith("I;16") and isinstance(bits, int) and 8 < bits < 16:
        white = 2**bits - 1
    else:
        white = full if full == 65535 else next(top for top in (255, 65535, full) if most <= top)
    return white, most / white if white > 255 else 1.0


def scale_to_bytes(values: NDArray[Any], top: float) -> Pixels:
    """Values of 0..`top` as 0..255, rounded to the nearest; what is a little outside is clipped."""
    if top == 255 and values.dtype.kind in "bui":
        return values.astype(np.uint8)
    wide = np.float64 if values.dtype.itemsize > 2 and values.dtype.kind in "ui" else np.float32
    scaled: NDArray[Any] = values.astype(wide)
    scaled *= 255 / top
    pixels: Pixels = np.rint(scaled, out=scaled).clip(0, 255, out=scaled).astype(np.uint8)
    return pixels


def _resize(image: Image.Image, height: int, width: int, policy: Policy) -> Image.Image:
    bilinear = Image.Resampling.BILINEAR
    if image.size == (width, height):
        return image
    if policy == "fit":
        return image.resize((width, height), bilinear, reducing_gap=3.0)
    shares = (width / image.width, height / image.height)
    if policy == "crop":
        share = max(shares)
        cut_x = max(0.0, (image.width - width / share) / 2)
        cut_y = max(0.0, (image.height - height / share) / 2)
        box = (cut_x, cut_y, image.width - cut_x, image.height - cut_y)
        return image.resize((width, height), bilinear, box=box, reducing_gap=3.0)
    share = min(shares)
    # Rounded half up, then centred with the odd row below and the odd column right: so too in examples/classify.py and
    # examples/android/EdgeNasModel.kt; tests/evaluation/sizing.json holds all three to it.
    wide, high = (max(1, math.floor(side * share + 0.5)) for side in image.size)
    canvas = Image.new(image.mode, (width, height))
    canvas.paste(image.resize((wide, high), bilinear, reducing_gap=3.0), ((width - wide) // 2, (height - high) // 2))
    return canvas
