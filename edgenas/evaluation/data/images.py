"""One image, whatever it was, as raw pixels of the input's size: uint8, [H, W, C], 0..255.

Scaling is bilinear, and antialiased when it shrinks (Pillow widens the filter with the scale).
"""

import io
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edgenas.errors import InputError, near

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

MAX_PIXELS = 89_478_485
"""Above this (Pillow's own bound; 256 MB as RGB) a file is taken for a decompression bomb."""


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

    EXIF rotation is applied. Colour becomes grey by ITU-R 601 luma (0.299 R + 0.587 G + 0.114 B), grey becomes
    colour by repetition. Transparent parts show black, as the padding does. 16-bit grey is divided by 257. 32-bit
    integer grey is scaled from the narrowest of 8, 16 and 32 bits that holds its maximum. Of several frames the
    first is taken.

    Args:
        source: a path, the bytes of a file, or an opened Pillow image.
        input_shape: (H, W, C), C = 1 or 3.
        policy: how its size is changed.

    Returns:
        uint8, [H, W, C].

    Raises:
        InputError: no image, a damaged one, one of more than `MAX_PIXELS`, or one of floating-point pixels.
    """
    height, width, channels = check_input_shape(input_shape)
    policy = check_policy(policy)
    try:
        image = _open(source)
        if image.width * image.height > MAX_PIXELS:
            raise InputError(
                f"{image.width} x {image.height} pixels: at most {MAX_PIXELS:,} are decoded. Make it smaller"
            )
        if image is not source:
            # A JPEG decodes at 1/2, 1/4 or 1/8 of its size when that is still twice the input's.
            image.draft(None, (2 * max(height, width), 2 * max(height, width)))
        image.load()
        plain = _eight_bits(ImageOps.exif_transpose(image), image)
        sized = _resize(plain, height, width, policy).convert("L" if channels == 1 else "RGB")
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"no image of a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"too many pixels: {error}") from None
    except FileNotFoundError as error:
        raise InputError(f"there is no file {error.filename}") from None
    except Exception as error:  # noqa: BLE001 -- a decoder may raise anything on a damaged file
        raise InputError(f"cannot be decoded: {error or type(error).__name__}") from None
    return np.asarray(sized, dtype=np.uint8).reshape(height, width, channels)


def _open(source: str | Path | bytes | Image.Image) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # an older Pillow has no AVIF
    return Image.open(io.BytesIO(source if isinstance(source, bytes) else Path(source).read_bytes()), formats=known)


def _eight_bits(image: Image.Image, origin: Image.Image) -> Image.Image:
    """The same picture as "L" or "RGB"; `origin` is the image as opened, which still knows its file's format."""
    mode = image.mode
    if mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if mode == "F":
        raise InputError(
            "floating-point pixels have no stated range: store it with 8 or 16 bits, or give the data as an .npz"
        )
    if mode.startswith("I"):
        return Image.fromarray(_scale_integers(np.asarray(image), origin))
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colour = image.convert("LA").convert("RGBA") if mode == "La" else image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, (0, 0, 0, 255)), colour).convert("RGB")
    return image.convert("L" if mode == "1" else "RGB")


def _scale_integers(values: NDArray[Any], origin: Image.Image) -> Pixels:
    """Grey of more than 8 bits (modes "I;16...", "I") as 8 bits."""
    if origin.mode.startswith("I;16"):
        return scale_to_bytes(values, 65535)
    if getattr(origin, "tag_v2", {}).get(339) == (1,) or values.min() >= 0:  # 339: TIFF's SampleFormat, 1 = unsigned
        values = values.view(np.uint32)
        if origin.format == "PPM":
            return scale_to_bytes(values, 65535)
        return scale_to_bytes(values, next(top for top in (255, 65535, 2**32 - 1) if values.max() <= top))
    raise InputError(f"negative pixels (down to {values.min()}): store it as unsigned integers of 8 or 16 bits")


def scale_to_bytes(values: NDArray[Any], top: float) -> Pixels:
    """Values of 0..`top` as 0..255, rounded to the nearest."""
    if top == 255 and values.dtype.kind in "bui":
        return values.astype(np.uint8)
    wide = np.float64 if values.dtype.itemsize > 2 and values.dtype.kind in "ui" else np.float32
    scaled: NDArray[Any] = values.astype(wide)
    scaled *= 255 / top
    pixels: Pixels = np.rint(scaled).astype(np.uint8)
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
    inner = (max(1, min(width, round(image.width * share))), max(1, min(height, round(image.height * share))))
    canvas = Image.new(image.mode, (width, height))
    canvas.paste(image.resize(inner, bilinear, reducing_gap=3.0), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas
