"""Batches for TensorFlow, streamed from the memory map: at no time is more than a few batches in memory."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgenas.errors import InputError
from edgenas.evaluation.data.augmentation import Augment
from edgenas.evaluation.data.dataset import Dataset

if TYPE_CHECKING:
    import tensorflow as tf

_KEPT = Augment()


def batches(dataset: Dataset, indices: ArrayLike, batch_size: int) -> "tf.data.Dataset":
    """A `tf.data.Dataset` of (float32 [B, H, W, C] of 0..255, int32 [B] classes), in order, once.

    Args:
        indices: int, [n], into `dataset`.

    Raises:
        InputError: no index, or a batch size below 1.
    """
    import tensorflow as tf

    rows = _checked(indices, batch_size)

    def generate() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32]]]:
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            yield dataset.x[chosen], dataset.y[chosen].astype(np.int32)

    signature = tf.TensorSpec((None, *dataset.input_shape), tf.uint8), tf.TensorSpec((None,), tf.int32)
    stream = tf.data.Dataset.from_generator(generate, output_signature=signature)
    stream = stream.apply(tf.data.experimental.assert_cardinality(-(-len(rows) // batch_size)))
    return stream.map(lambda images, classes: (tf.cast(images, tf.float32), classes)).prefetch(2)


def training_batches(
    dataset: Dataset, indices: ArrayLike, batch_size: int, steps: range, seed: int, augment: Augment = _KEPT
) -> "tf.data.Dataset":
    """A `tf.data.Dataset` of (float32 [B, H, W, C] of 0..255, float32 [B, classes] labels) for training.

    The images pass again and again, each time in another order; a batch is the same for the same seed and step, from
    wherever the steps begin. All batches are of one size: of a pass, what is left over is not seen.

    Args:
        indices: int, [n], into `dataset`.
        batch_size: at most n.
        steps: which steps of the training.
        seed: of orders and variations.
        augment: how images are varied.

    Raises:
        InputError: no index, or a batch size below 1 or above n.
    """
    import tensorflow as tf

    rows = _checked(indices, batch_size)
    if batch_size > len(rows):
        raise InputError(f"Expected a batch of at most the {len(rows)} images, received {batch_size}.")
    a_pass = len(rows) // batch_size

    def generate() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int32], np.int32]]:
        order = rows
        for step in steps:
            passes, place = divmod(step, a_pass)
            if place == 0 or step == steps.start:
                order = np.random.default_rng([seed, passes]).permutation(rows)
            chosen = order[place * batch_size : (place + 1) * batch_size]
            yield dataset.x[chosen], dataset.y[chosen].astype(np.int32), np.int32(step)

    vary = augment()

    def finish(images: Any, classes: Any, step: Any) -> Any:
        labels = tf.one_hot(classes, dataset.classes)
        return vary(tf.cast(images, tf.float32), labels, tf.stack([tf.constant(seed % 2**31, tf.int32), step]))

    signature = (
        tf.TensorSpec((batch_size, *dataset.input_shape), tf.uint8),
        tf.TensorSpec((batch_size,), tf.int32),
        tf.TensorSpec((), tf.int32),
    )
    stream = tf.data.Dataset.from_generator(generate, output_signature=signature)
    stream = stream.apply(tf.data.experimental.assert_cardinality(len(steps)))
    # Two at a time where variations cost as much as a step; in order all the same.
    return stream.map(finish, num_parallel_calls=2, deterministic=True).prefetch(4)


def _checked(indices: ArrayLike, batch_size: int) -> NDArray[np.int64]:
    rows = np.asarray(indices, np.int64)
    if rows.ndim != 1 or not len(rows) or batch_size < 1:
        raise InputError(
            f"Expected at least one image and a batch of at least 1; received {rows.size} images and {batch_size}."
        )
    return rows
