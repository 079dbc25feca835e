"""Quantisation-aware fine-tuning: a trained network learns to live with int8 before it is converted."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.evaluation.data import Dataset
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.training import Indices, OnEpoch, last_epoch, optimizer_of, run_epochs, save_epoch, steps_of
from edgenas.model import equalise, fold

EPOCHS = 3  # passes over the data, or as many as give LEAST_STEPS
LEAST_STEPS = 300
RATE = 0.1  # of the recipe's learning rate
STATE = "state.npz"


def fine_tuning_epochs(indices: Indices, recipe: Recipe) -> int:
    """How many passes over the images fine-tuning takes."""
    return max(EPOCHS, math.ceil(LEAST_STEPS / steps_of(indices, recipe)))


def fine_tune(
    model: Any,
    dataset: Dataset,
    indices: Indices,
    calibration: npt.NDArray[np.float32],
    recipe: Recipe,
    seed: int,
    *,
    equalised: bool = True,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
) -> Any:
    """A Keras model whose weights have learnt that they, and the activations, will be rounded to int8.

    Batch normalisation is folded first, so its statistics are those of the training before, and the channels of each
    tensor are brought to one range (see `equalise`). Then it trains for `fine_tuning_epochs`, by the network's own
    recipe at a tenth of its learning rate.

    Args:
        model: trained, from `build_model`; it is not changed.
        dataset, indices: [n] the images to train on.
        calibration: images [N, height, width, channels] of 0-255, from which the ranges of activations start.
        recipe: of the training before.
        seed: of order and variations.
        equalised: False leaves the channels as they are.
        checkpoint: a folder to go on from after a break; removed by nobody but the caller.
        on_epoch: called after each epoch.

    Returns:
        The folded model: it converts as the one before does, to the same operators.

    Raises:
        TrainingError: the loss is not finite.
    """
    import keras

    from edgenas.model.fake_quantised import FakeQuantised

    keras.utils.set_random_seed(seed)
    gentle = dataclasses.replace(recipe, learning_rate=recipe.learning_rate * RATE)
    epochs = fine_tuning_epochs(indices, recipe)
    folded = fold(model)
    network = FakeQuantised(equalise(folded, calibration) if equalised else folded, calibration)
    network.optimizer = optimizer_of(gentle, epochs * steps_of(indices, recipe))
    network.optimizer.build(network.trainable_variables)
    changing = [*network.variables, *network.optimizer.variables]
    run_epochs(
        network,
        dataset,
        indices,
        gentle,
        range(_restore(checkpoint, changing), epochs),
        seed,
        name="the network for int8",
        save=lambda done: save_epoch(
            checkpoint, done, lambda folder: np.savez(folder / STATE, *(each.numpy() for each in changing))
        ),
        on_epoch=on_epoch,
    )
    return network.model


def _restore(checkpoint: Path | None, changing: Sequence[Any]) -> int:
    """Give variables the values of the last whole epoch; how many epochs there were."""
    folder, done = last_epoch(checkpoint)
    if folder is not None:
        with np.load(folder / STATE, allow_pickle=False) as arrays:
            for index, variable in enumerate(changing):
                variable.assign(arrays[f"arr_{index}"])
    return done
