"""Batches for TensorFlow, streamed from the memory map: at no time is more than a few batches in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgenas.errors import InputError
from edgenas.evaluation.data.dataset import Dataset

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Augment:
    """How training images are varied.

    Attributes:
        flip: mirror left and right, every second image.
        shift: move by whole pixels, up to this share of each side, either way; what comes in is black (zeros).
    """

    flip: bool = False
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.shift < 1:
            raise InputError(f"Augment: expected a shift of 0 to below 1 (a share of the side), received {self.shift}.")


def batches(
    dataset: Dataset,
    indices: ArrayLike,
    batch_size: int,
    *,
    shuffle_seed: int | None = None,
    augment: Augment | None = None,
    epochs: int = 1,
    drop_remainder: bool = False,
) -> "tf.data.Dataset":
    """A `tf.data.Dataset` of (float32 [B, H, W, C] of 0..255, int32 [B] classes); the same batches each time.

    Args:
        indices: int, [n], into `dataset`.
        shuffle_seed: None keeps the order of `indices`; else the order of epoch e comes from (shuffle_seed, e).
        augment: drawn from (shuffle_seed or 0, number of the batch since the start).
        epochs: passes over the data in one stream, each in an order of its own.
        drop_remainder: leave out an epoch's last batch where it is smaller (unless it is the only one).

    Raises:
        InputError: no index, or a batch size or number of epochs below 1.
    """
    import tensorflow as tf

    rows = np.asarray(indices, np.int64)
    if rows.ndim != 1 or not len(rows) or batch_size < 1 or epochs < 1:
        raise InputError(
            f"Expected at least one image, a batch of at least 1 and at least one epoch; "
            f"received {rows.size} images, {batch_size} and {epochs}."
        )
    whole = drop_remainder and len(rows) >= batch_size
    steps = len(rows) // batch_size if whole else -(-len(rows) // batch_size)

    def generate() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
        for epoch in range(epochs):
            order = rows
            if shuffle_seed is not None:
                order = np.random.default_rng([shuffle_seed, epoch]).permutation(rows)
            for step in range(steps):
                chosen = order[step * batch_size : (step + 1) * batch_size]
                yield dataset.x[chosen], dataset.y[chosen].astype(np.int32)

    def finish(step: Any, batch: Any) -> Any:
        images, classes = batch
        if augment is not None:
            images = _vary(images, augment, dataset.input_shape, (shuffle_seed or 0, step))
        return tf.cast(images, tf.float32), classes

    signature = (
        tf.TensorSpec((None, *dataset.input_shape), tf.uint8),
        tf.TensorSpec((None,), tf.int32),
    )
    stream = tf.data.Dataset.from_generator(generate, output_signature=signature)
    stream = stream.apply(tf.data.experimental.assert_cardinality(steps * epochs))
    options = tf.data.Options()
    options.deterministic = True
    return stream.enumerate().map(finish).with_options(options).prefetch(2)


def _vary(images: Any, augment: Augment, input_shape: tuple[int, int, int], seed: tuple[int, Any]) -> Any:
    """uint8 [B, H, W, C], each image varied by its own draw."""
    import tensorflow as tf

    height, width, _ = input_shape
    count = tf.shape(images)[0]
    draws = tf.random.stateless_uniform((count, 3), tf.stack([tf.cast(seed[0], tf.int64), tf.cast(seed[1], tf.int64)]))
    if augment.flip:
        images = tf.where(draws[:, 0, None, None, None] < 0.5, images[:, :, ::-1], images)
    for axis, side in ((1, height), (2, width)):
        reach = round(augment.shift * side)
        if reach:
            padding = [[0, 0], [reach, reach], [0, 0], [0, 0]]
            padded = tf.pad(images, padding if axis == 1 else [padding[0], padding[2], padding[1], padding[3]])
            starts = tf.cast(tf.floor(draws[:, axis] * (2 * reach + 1)), tf.int32)
            images = tf.gather(padded, starts[:, None] + tf.range(side)[None, :], axis=axis, batch_dims=1)
    return images
