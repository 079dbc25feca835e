"""Arrays of images, as an `.npz` or a library holds them, as raw pixels of the input's size."""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgenas.errors import InputError
from edgenas.evaluation.data.images import (
    DEFAULT_POLICY,
    Pixels,
    Policy,
    check_input_shape,
    check_policy,
    prepare_image,
    scale_to_bytes,
)

_NEAR = 0.01  # of white: what rounding and scaling leave above it, and below black; it is clipped
_DIM = 64  # of 255: numbers whose largest is less are hardly meant as 0..255

_log = logging.getLogger(__name__)


def prepare_arrays(x: NDArray[Any], input_shape: tuple[int, ...], policy: Policy = DEFAULT_POLICY) -> Pixels:
    """An array of images as the raw pixels a model takes. How its values were read is logged.

    Args:
        x: [N, h, w] or [N, h, w, c], c = 1 (grey), 2 (grey + alpha), 3 (colour) or 4 (colour + alpha).
        input_shape: (H, W, C), C = 1 or 3.
        policy: how their size is changed.

    Returns:
        uint8, [N, H, W, C].

    Raises:
        InputError: another shape, no image, or values that cannot be pixels (see `value_range`).
    """
    height, width, channels = check_input_shape(input_shape)
    policy = check_policy(policy)
    images = _four_axes(x)
    top, sentence = value_range(images)
    if sentence:
        _log.info("%s", sentence)
    if images.shape[1:] == (height, width, channels):
        return scale_to_bytes(images, top)
    out = np.empty((len(images), height, width, channels), np.uint8)
    for row, image in enumerate(images):
        pixels = scale_to_bytes(image, top)
        out[row] = prepare_image(
            Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels), input_shape, policy
        )
    return out


def value_range(x: NDArray[Any]) -> tuple[int, str]:
    """What the value of white is in an array of pixels, and a sentence that says so ("" for uint8).

    bool: 1. uint8: 255. uint16: 255, or the narrowest of 10, 12, 14 and 16 bits that holds all values. Other integers:
    255. Floats: 1 where no value is larger, else 255. Floats may be outside by 1% of white: they are clipped.

    Raises:
        InputError: NaN, an infinite or negative value, one above white, numbers that are neither 0..1 nor 0..255, or a
            type that is no number.
    """
    if x.dtype.kind not in "buif":
        raise InputError(f"x: expected numbers, received {x.dtype}. Store the images as uint8, 0..255.")
    least, most = float(x.min()), float(x.max())
    if x.dtype == np.uint8:
        dim = f"x is uint8 with values up to {most:g}, of 255 that are white: the images are nearly black."
        return 255, dim if 0 < most < _DIM else ""
    if not (np.isfinite(least) and np.isfinite(most)):
        raise InputError(f"x: expected finite values, received NaN or infinite ones ({x.dtype}). Remove them.")
    real = x.dtype.kind == "f"
    tops = {
        "b": (1,),
        "f": (1, 255),
        "i": (255,),
        "u": (255, 1023, 4095, 16383, 65535)[: 5 if x.dtype.itemsize == 2 else 1],
    }
    for top in tops[x.dtype.kind]:
        over = _NEAR * top if real else 0
        if -over <= least <= most <= top + over:
            if top == 255 and most < _DIM and (least or most):
                break
            return top, f"x is {x.dtype} with values up to {most:g}: read as 0..{top}."
    raise InputError(
        f"x: expected pixels of 0..255 (or floats of 0..1), received {x.dtype} of {least:g}..{most:g}. "
        "Undo the normalisation, scale them so that white is 255, and store uint8; the model normalises by itself."
    )


def _four_axes(x: NDArray[Any]) -> NDArray[Any]:
    """[N, h, w, c] from [N, h, w] or [N, h, w, c]."""
    images = x[..., np.newaxis] if x.ndim == 3 else x
    if images.ndim != 4 or images.size == 0 or images.shape[3] not in (1, 2, 3, 4):
        hint = " Move the channels to the end." if images.ndim == 4 and images.shape[1] in (1, 3, 4) else ""
        raise InputError(
            f"x: expected images as [N, height, width] or [N, height, width, 1 to 4 channels], "
            f"received {list(x.shape)}.{hint}"
        )
    return images
