"""Training and measuring networks with Keras, the same each time for the same seed."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgenas.files as files
from edgenas.architecture import Architecture, Input, Node
from edgenas.errors import EdgeNASError
from edgenas.evaluation.data import Augment, Dataset, batches, class_weights, metrics
from edgenas.evaluation.recipe import Recipe
from edgenas.model import build_model, fused_batch_normalisation, keras_on_tensorflow

Indices = npt.NDArray[np.int64]
OnEpoch = Callable[[int, dict[str, float]], None]  # (epochs done, loss and accuracy)
EVALUATION_BATCH = 500
MODEL = "model.keras"
UNDECAYED = ["gamma", "beta", "bias"]


class TrainingError(EdgeNASError):
    """A training that gave no usable network, such as one whose loss is not finite."""


def prepare_tensorflow(threads: int | None = None) -> None:
    """Fixed threads, deterministic operations, memory growth on a GPU: so that a seed means something.

    Call it before TensorFlow does anything; once it has begun, threads stay as they are.
    """
    keras_on_tensorflow()
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    with contextlib.suppress(RuntimeError):  # it has begun
        tf.config.threading.set_intra_op_parallelism_threads(threads or os.cpu_count() or 1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)


def at_scale(architecture: Architecture, scale: float) -> Architecture:
    """The same blocks on an input of smaller sides."""
    height, width, channels = architecture.input_shape
    small = Input((max(8, round(height * scale)), max(8, round(width * scale)), channels))
    return Architecture((Node(small), *architecture.nodes[1:]))


def train(
    architecture: Architecture,
    dataset: Dataset,
    indices: Indices,
    recipe: Recipe,
    epochs: int,
    seed: int,
    *,
    scale: float = 1.0,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> Any:
    """A trained Keras model of an architecture.

    Args:
        architecture: the network.
        dataset: images and labels.
        indices: [n] the images to train on.
        recipe: how.
        epochs: passes over them.
        seed: of weights, order and variations.
        scale: of the input's sides (see `Fidelity`).
        checkpoint: a folder to go on from after a break; removed by nobody but the caller.
        on_epoch: called after each epoch.

    Raises:
        TrainingError: the loss is not finite.
    """
    import keras

    keras.utils.set_random_seed(seed)
    network = architecture if scale == 1 else at_scale(architecture, scale)
    model, first = _restore(checkpoint)
    if model is None:
        model = build_model(network)
        model.compile(optimizer_of(recipe, epochs * steps_of(indices, recipe)))
    run_epochs(
        model,
        dataset,
        indices,
        recipe,
        range(first, epochs),
        seed,
        name=architecture.id,
        save=lambda done: save_epoch(checkpoint, done, lambda folder: model.save(folder / MODEL)),
        on_epoch=on_epoch,
    )
    return model


def run_epochs(
    model: Any,
    dataset: Dataset,
    indices: Indices,
    recipe: Recipe,
    epochs: range,
    seed: int,
    *,
    name: str,
    save: Callable[[int], None],
    on_epoch: OnEpoch | None = None,
) -> None:
    """Train a model that has its optimizer, in place.

    Args:
        model: called with images and `training`, it gives logits; it has `inputs`, `trainable_variables` and an
            `optimizer`.
        dataset, indices, recipe, seed: as in `train`.
        epochs: which ones; each has an order of its own.
        name: of the network, for errors.
        save: called after each epoch with how many are done.
        on_epoch: called after that.

    Raises:
        TrainingError: the loss is not finite.
    """
    step = _training_step(model, recipe, dataset, indices)
    augment = Augment(flip=recipe.flip, shift=recipe.shift) if recipe.flip or recipe.shift else None
    steps = steps_of(indices, recipe)
    for epoch in epochs:
        stream = batches(
            dataset, indices, recipe.batch_size, shuffle_seed=seed * 1000 + epoch, augment=augment, drop_remainder=True
        )
        sums = np.zeros(3)
        for images, labels in _fitted(stream, _sides(model)):
            loss, right = step(images, labels)
            sums += float(loss), float(right), len(labels)
        loss, accuracy = sums[0] / steps, sums[1] / sums[2]
        if not np.isfinite(loss):
            raise TrainingError(f"The training of {name} diverged in epoch {epoch + 1}: its loss is {loss}.")
        save(epoch + 1)
        if on_epoch is not None:
            on_epoch(epoch + 1, {"loss": loss, "accuracy": accuracy})


def steps_of(indices: Indices, recipe: Recipe) -> int:
    """Steps of one epoch: whole batches only."""
    return max(1, len(indices) // recipe.batch_size)


def _training_step(model: Any, recipe: Recipe, dataset: Dataset, indices: Indices) -> Callable[[Any, Any], Any]:
    """A function of a batch that takes one step and gives (mean loss, right answers).

    Keras' own `fit` traces three times as long as this, which is most of what a short training costs.
    """
    import keras
    import tensorflow as tf

    weights = np.ones(dataset.classes, np.float32)
    if recipe.balance_classes:
        weights = class_weights(dataset.y[indices], dataset.classes)
    by_class = tf.constant(weights)
    loss_of = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=recipe.label_smoothing, reduction="none"
    )
    variables = model.trainable_variables
    model.optimizer.build(variables)

    # Not compiled by XLA: that takes minutes on a CPU, and the result is slower.
    @tf.function(autograph=False, jit_compile=False, reduce_retracing=True)  # type: ignore[untyped-decorator]
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            losses = loss_of(tf.one_hot(labels, dataset.classes), logits)
            loss = tf.reduce_mean(losses * tf.gather(by_class, labels))
        model.optimizer.apply(tape.gradient(loss, variables), variables)
        right = tf.reduce_sum(tf.cast(tf.argmax(logits, 1, tf.int32) == labels, tf.float32))
        return loss, right

    return step  # type: ignore[no-any-return]


def predict(model: Any, dataset: Dataset, indices: Indices) -> npt.NDArray[np.float32]:
    """[n, classes] logits of a Keras model."""
    import tensorflow as tf

    forward = tf.function(lambda images: model(images, training=False), autograph=False, reduce_retracing=True)
    stream = _fitted(batches(dataset, indices, EVALUATION_BATCH), _sides(model))
    return np.concatenate([forward(images).numpy() for images, _ in stream])


def measure(model: Any, dataset: Dataset, indices: Indices) -> dict[str, Any]:
    """Accuracy, balanced accuracy, recall by class and number of images."""
    predicted = predict(model, dataset, indices).argmax(axis=1)
    return metrics(dataset.y[indices], predicted, dataset.classes)


def optimizer_of(recipe: Recipe, steps: int) -> Any:
    """AdamW with the recipe's schedule over so many steps."""
    import keras

    warmup = int(recipe.warmup * steps)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=recipe.learning_rate / 25,
        warmup_target=recipe.learning_rate,
        warmup_steps=max(1, warmup),
        decay_steps=max(1, steps - warmup),
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=UNDECAYED)
    return optimizer


def _sides(model: Any) -> tuple[int, int]:
    height, width = (int(side) for side in model.inputs[0].shape[1:3])
    return height, width


def _fitted(stream: Any, sides: tuple[int, int]) -> Any:
    """The stream with its images at the size that the network takes."""
    import tensorflow as tf

    def fit(images: Any, labels: Any) -> Any:
        same = tuple(images.shape[1:3]) == sides
        return images if same else tf.image.resize(images, sides, antialias=True), labels

    return stream.map(fit)


def save_epoch(checkpoint: Path | None, epochs: int, write: Callable[[Path], None]) -> None:
    """Keep what `write` puts into a folder as the state after so many epochs, in place of the one before."""
    if checkpoint is None:
        return
    target = checkpoint / f"epoch-{epochs}"
    with files.whole_folder(target) as folder:
        write(folder)
        files.write_atomically(folder / "done.json", json.dumps({"epochs": epochs, "time": time.time()}))
    for old in checkpoint.glob("epoch-*"):
        if old != target:
            shutil.rmtree(old)


def last_epoch(checkpoint: Path | None) -> tuple[Path | None, int]:
    """The folder of the last whole epoch, and how many epochs there were; (None, 0) where there is none."""
    found = sorted(checkpoint.glob("epoch-*"), key=lambda path: int(path.name[6:])) if checkpoint else []
    return (found[-1], int(found[-1].name[6:])) if found else (None, 0)


def _restore(checkpoint: Path | None) -> tuple[Any, int]:
    """The model as it was after its last whole epoch, and how many it has had."""
    folder, epochs = last_epoch(checkpoint)
    if folder is None:
        return None, 0
    import keras

    fused_batch_normalisation()
    model = keras.models.load_model(folder / MODEL)
    model.optimizer.exclude_from_weight_decay(var_names=UNDECAYED)  # Keras does not save it
    return model, epochs
