"""Varied training images, by Keras' own layers: the same for a seed and a step, also after a break."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

# Shares of the side, of a turn, of the range of values. "light" leaves an object whole and upright, "strong" does not.
_SHIFT = {"light": 0.08, "strong": 0.12}
_ZOOM = {"light": 0.1, "strong": 0.25}
_TURN = {"light": 0.0, "strong": 0.08}
_BRIGHTNESS = {"light": 0.1, "strong": 0.2}
_CONTRAST = {"light": 0.1, "strong": 0.3}
_ERASED = (0.02, 0.15)  # of the area of every second image, where strong (cut-out: DeVries and Taylor, 2017)

Seed = Any  # int32 [2]: of the training, and the step


@dataclass(frozen=True)
class Augment:
    """How training images are varied.

    Attributes:
        grade: "none"; "light": moved, zoomed, brightness and contrast changed a little; "strong": more of it, turned
            by up to 29 degrees, and a part of every second image cut out.
        flip: mirror left and right, every second image.
        mixup: blend pairs of images and their labels; the share is drawn from Beta(mixup, mixup). 0: never.
    """

    grade: Literal["none", "light", "strong"] = "none"
    flip: bool = False
    mixup: float = 0.0

    def __call__(self) -> Callable[[Any, Any, Seed], tuple[Any, Any]]:
        """A function of images [B, H, W, C] of 0-255, labels [B, classes] and a seed, to varied ones of that kind."""
        layers = _layers(self.grade, self.flip)

        def vary(images: Any, labels: Any, seed: Seed) -> tuple[Any, Any]:
            for number, layer in enumerate(layers):
                drawn = _drawn(seed, number)
                transformation = layer.get_random_transformation(images, training=True, seed=drawn)
                images = layer.transform_images(images, transformation, training=True)
            return _mixed(images, labels, self.mixup, seed) if self.mixup else (images, labels)

        return vary


def _layers(grade: str, flip: bool) -> list[Any]:
    import keras

    layers = keras.layers
    found: list[Any] = [layers.RandomFlip("horizontal")] if flip else []
    if grade == "none":
        return found
    shift, turn = _SHIFT[grade], _TURN[grade]
    found.append(layers.RandomTranslation(shift, shift, fill_mode="nearest"))
    if turn:
        found.append(layers.RandomRotation(turn, fill_mode="nearest"))
    found += [
        layers.RandomZoom(_ZOOM[grade], fill_mode="nearest"),
        layers.RandomBrightness(_BRIGHTNESS[grade]),
        layers.RandomContrast((_CONTRAST[grade], _CONTRAST[grade])),  # a single number would only raise it
    ]
    if grade == "strong":
        # A single number would be the most: each image its own chance, up to that.
        found.append(layers.RandomErasing((0.5, 0.5), scale=_ERASED, fill_value=0.0))
    return found


def _drawn(seed: Seed, number: int) -> Any:
    """What a layer takes for its random state: draws that follow from the seed, the layer's number and their order.

    Keras' own generator counts its draws in a variable: after a break they would be others.
    """
    import keras
    import tensorflow as tf

    class Drawn(keras.random.SeedGenerator):  # type: ignore[misc]
        def __init__(self) -> None:
            self._count = 0

        def next(self, ordered: bool = True) -> Any:
            self._count += 1
            return seed + tf.constant([104729 * (number + 1), 7919 * self._count], tf.int32)

    return Drawn()


def _mixed(images: Any, labels: Any, alpha: float, seed: Seed) -> tuple[Any, Any]:
    """Each image blended with that of the other end of the batch."""
    import tensorflow as tf

    shape = (tf.shape(images)[0], 1)
    one, other = (tf.random.stateless_gamma(shape, seed + tf.constant([0, 15485863 + n], tf.int32), alpha)
                  for n in range(2))  # fmt: skip
    share = one / (one + other)
    wide = share[:, :, None, None]
    return images * wide + images[::-1] * (1 - wide), labels * share + labels[::-1] * (1 - share)
