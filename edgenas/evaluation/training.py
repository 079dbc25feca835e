"""Training and measuring networks with Keras, the same each time for the same seed."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgenas.files as files
from edgenas.architecture import Architecture, Input, Node
from edgenas.errors import EdgeNASError
from edgenas.evaluation.checkpoint import Checkpoint
from edgenas.evaluation.curve import Curve
from edgenas.evaluation.data import Augment, Dataset, batches, class_weights, metrics, training_batches
from edgenas.evaluation.recipe import Grade, Recipe
from edgenas.model import build_model, keras_on_tensorflow

Indices = npt.NDArray[np.int64]
OnRound = Callable[[int, dict[str, float]], None]  # (steps done, loss and accuracy)
EVALUATION_BATCH = 500
ROUND_STEPS = 100  # between two checkpoints
WARMUP_STEPS = 100
DECAY = 0.25  # share of the steps in which the learning rate falls
AVERAGED = 0.99  # how much of a moving average of weights a step keeps
SQUARES = 0.99  # kept of the mean of squared gradients: a training of few steps must not wait for it
UNDECAYED = ("gamma", "beta", "bias")


class TrainingError(EdgeNASError):
    """A training that gave no usable network, such as one whose loss is not finite."""


def prepare_tensorflow(threads: int | None = None) -> None:
    """Fixed threads, deterministic operations, memory growth on a GPU: so that a seed means something.

    Call it before TensorFlow does anything; once it has begun, threads stay as they are.
    """
    keras_on_tensorflow()
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # what it has to say is of no use to a user
    tf.config.experimental.enable_op_determinism()
    with contextlib.suppress(RuntimeError):  # it has begun
        tf.config.threading.set_intra_op_parallelism_threads(threads or os.cpu_count() or 1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)


def at_scale(architecture: Architecture, scale: float) -> Architecture:
    """The same blocks on an input of smaller sides."""
    if scale == 1:
        return architecture
    height, width, channels = architecture.input_shape
    small = Input((max(8, round(height * scale)), max(8, round(width * scale)), channels))
    return Architecture((Node(small), *architecture.nodes[1:]))


def rate_at(step: int, steps: int | None, highest: float) -> float:
    """The learning rate of a step: it rises over the first steps, stays, and falls to 0 over the last quarter.

    It falls as 1 - sqrt(progress) (Hägele et al., NeurIPS 2024, arXiv:2405.18392). Unlike under a cosine, how good the
    network of a step is does not depend on how many were planned: so a training can look for the step to stop at.

    Args:
        step: from 0.
        steps: of the whole training; None: its end is not known, and the rate does not fall.
    """
    warmup = WARMUP_STEPS if steps is None else max(1, min(WARMUP_STEPS, steps // 5))
    rate = highest * min(1.0, (step + 1) / warmup)
    if steps is not None:
        begin = (1 - DECAY) * steps
        rate *= 1 - max(0.0, (step - begin) / (steps - begin)) ** 0.5
    return rate


def train(
    architecture: Architecture,
    dataset: Dataset,
    indices: Indices,
    recipe: Recipe,
    steps: int,
    seed: int,
    *,
    checkpoint: Path | None = None,
    on_round: OnRound | None = None,
) -> tuple[Any, Curve]:
    """A trained Keras model of an architecture, and how it came to be.

    Args:
        architecture: the network.
        dataset: images and labels.
        indices: [n] the images to train on.
        recipe: how.
        steps: of its batch size.
        seed: of weights, order and variations.
        checkpoint: a folder to go on from after a break; removed by nobody but the caller.
        on_round: called after each round of steps.

    Raises:
        TrainingError: the loss is not finite.
    """
    trainer = Trainer.of(architecture, dataset, recipe)
    trainer.begin(seed)
    curve = trainer.finish(indices, steps, seed, checkpoint, on_round)
    return trainer.model, curve


class Trainer:
    """A network that can be trained again and again from new weights: tracing its step takes seconds.

    Keras' own `fit` traces three times as long as this, which is most of what a short training costs.

    Args:
        model: called with images and `training`, it gives logits; it has `inputs`, `variables` and
            `trainable_variables`.
        dataset: images and labels.
        recipe: how it is trained.
        name: of the network, for errors.
        averaged: whether a moving average of the weights is kept.
    """

    def __init__(self, model: Any, dataset: Dataset, recipe: Recipe, name: str, averaged: bool = False) -> None:
        import keras
        import tensorflow as tf

        self.model = model
        self._dataset, self._recipe, self._name = dataset, recipe, name
        self._by_class = tf.Variable(tf.ones(dataset.classes), trainable=False)
        self._optimizer = keras.optimizers.Adam(beta_2=SQUARES)
        self._optimizer.build(model.trainable_variables)
        self._average = [tf.Variable(each.numpy(), trainable=False) for each in model.variables] if averaged else []
        self._fresh = [each.numpy() for each in self._optimizer.variables]
        self._step = self._traced()
        self._forward = _forward(model)

    @classmethod
    def of(cls, architecture: Architecture, dataset: Dataset, recipe: Recipe, averaged: bool = False) -> "Trainer":
        """One of a network that was not trained yet."""
        return cls(build_model(architecture), dataset, recipe, architecture.id, averaged)

    def begin(self, seed: int) -> None:
        """Give the network new weights, and forget the training before."""
        import keras

        keras.utils.set_random_seed(seed)
        self.model.set_weights(keras.models.clone_model(self.model).get_weights())
        for each, value in zip(self._optimizer.variables, self._fresh, strict=True):
            each.assign(value)
        for kept, each in zip(self._average, self.model.variables, strict=False):
            kept.assign(each)

    @property
    def state(self) -> list[Any]:
        """All that training changes."""
        return [*self.model.variables, *self._optimizer.variables, *self._average]

    def finish(
        self, indices: Indices, steps: int, seed: int, checkpoint: Path | None = None, on_round: OnRound | None = None
    ) -> Curve:
        """Train to the end of so many steps, on from what is in the checkpoint; arguments as in `train`."""
        kept = Checkpoint(checkpoint)
        first, notes = kept.restore(self.state)
        curve = Curve(self._name) if notes is None else files.from_mapping(Curve, notes, str(checkpoint))
        for done, values in self.rounds(indices, range(first, steps), steps, seed):
            curve = curve.and_then(done, values)
            kept.save(done, self.state, files.as_mapping(curve))
            if on_round is not None:
                on_round(done, values)
        return curve

    def rounds(
        self, indices: Indices, steps: range, of: int | None, seed: int, grade: Grade | None = None
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """Train, and after each round of steps give how many are done, and its mean loss and accuracy.

        Args:
            indices: [n] the images to train on.
            steps: which ones.
            of: steps of the whole training; None: not known yet (see `rate_at`).
            seed: of order and variations.
            grade: how strongly images are varied; None: as the recipe says.

        Raises:
            TrainingError: the loss is not finite.
        """
        recipe, count = self._recipe, len(indices)
        if recipe.balance_classes:
            self._by_class.assign(class_weights(self._dataset.y[indices], self._dataset.classes))
        augment = Augment(grade or recipe.grade_of(count), recipe.flip, recipe.mixup)
        stream = training_batches(self._dataset, indices, recipe.batch_of(count), steps, seed, augment)
        highest = recipe.rate_of(count)
        sums = np.zeros(3)
        for step, (images, labels) in zip(steps, _fitted(stream, _sides(self.model)), strict=True):
            keep = min(AVERAGED, (1 + step) / (10 + step))
            loss, right = self._step(images, labels, np.float32(rate_at(step, of, highest)), np.float32(keep))
            sums += float(loss), float(right), 1
            done = step + 1
            if done % ROUND_STEPS == 0 or done == steps.stop:
                loss, accuracy = sums[:2] / sums[2]
                if not np.isfinite(loss):
                    raise TrainingError(f"The training of {self._name} diverged by step {done}: its loss is {loss}.")
                yield done, {"loss": float(loss), "accuracy": float(accuracy)}
                sums[:] = 0

    def _traced(self) -> Any:
        """A function of a batch, a learning rate and what an average keeps: one step; mean loss and accuracy."""
        import keras
        import tensorflow as tf

        model, optimizer, average, by_class = self.model, self._optimizer, self._average, self._by_class
        trained = [(variable, variable.name not in UNDECAYED) for variable in model.trainable_variables]
        decay = self._recipe.weight_decay
        loss_of = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=self._recipe.label_smoothing, reduction="none"
        )

        # Not compiled by XLA: that takes minutes on a CPU, and the result is slower.
        @tf.function(autograph=False, jit_compile=False, reduce_retracing=True)  # type: ignore[untyped-decorator]
        def step(images: Any, labels: Any, rate: Any, keep: Any) -> Any:
            with tf.GradientTape() as tape:
                logits = model(images, training=True)
                weights = tf.linalg.matvec(labels, by_class)
                loss = tf.reduce_mean(loss_of(labels, logits) * weights)
            # AdamW. Not by `apply`: the graph of a function that calls it is never freed (Keras 3.15, 25 MB a network).
            gradients = tape.gradient(loss, model.trainable_variables)
            for gradient, (variable, decays) in zip(gradients, trained, strict=True):
                if decays:
                    variable.assign_sub(variable * decay * rate)
                optimizer.update_step(gradient, variable, rate)
            optimizer.iterations.assign_add(1)
            for kept, each in zip(average, model.variables, strict=False):
                kept.assign(keep * kept + (1 - keep) * each)
            right = tf.argmax(labels, 1) == tf.argmax(logits, 1)
            return loss, tf.reduce_mean(tf.cast(right, tf.float32))

        return step

    def predict(self, indices: Indices) -> npt.NDArray[np.float32]:
        """[n, classes] logits."""
        return _predict(self._forward, self._dataset, indices, _sides(self.model))

    def predict_averaged(self, indices: Indices) -> npt.NDArray[np.float32]:
        """[n, classes] logits of the network with the averaged weights: what a falling learning rate would give."""
        now = [each.numpy() for each in self.model.variables]
        for each, kept in zip(self.model.variables, self._average, strict=True):
            each.assign(kept)
        found = self.predict(indices)
        for each, value in zip(self.model.variables, now, strict=True):
            each.assign(value)
        return found


def predict(model: Any, dataset: Dataset, indices: Indices) -> npt.NDArray[np.float32]:
    """[n, classes] logits of a Keras model."""
    return _predict(_forward(model), dataset, indices, _sides(model))


def measure(model: Any, dataset: Dataset, indices: Indices) -> dict[str, Any]:
    """Accuracy, balanced accuracy, recall by class and number of images; see `metrics`."""
    predicted = predict(model, dataset, indices).argmax(axis=1)
    return metrics(dataset.y[indices], predicted, dataset.classes)


def _forward(model: Any) -> Any:
    import tensorflow as tf

    return tf.function(lambda images: model(images, training=False), autograph=False, reduce_retracing=True)


def _predict(forward: Any, dataset: Dataset, indices: Indices, sides: tuple[int, int]) -> npt.NDArray[np.float32]:
    stream = _fitted(batches(dataset, indices, EVALUATION_BATCH), sides)
    return np.concatenate([forward(images).numpy() for images, _ in stream])


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
