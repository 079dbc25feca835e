"""Quantisation-aware fine-tuning: a trained network learns to live with int8 before it is converted."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.evaluation.data import Dataset
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.training import Indices, OnRound, Trainer
from edgenas.model import equalise, fold

PASSES = 3  # over the data, or as many as give LEAST_STEPS
LEAST_STEPS = 300
RATE = 0.1  # of the recipe's learning rate


def fine_tuning_steps(indices: Indices, recipe: Recipe) -> int:
    """How many steps fine-tuning takes."""
    return max(PASSES * (len(indices) // recipe.batch_of(len(indices))), LEAST_STEPS)


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
    on_round: OnRound | None = None,
) -> Any:
    """A Keras model whose weights have learnt that they, and the activations, will be rounded to int8.

    Batch normalisation is folded first, so its statistics are those of the training before, and the channels of each
    tensor are brought to one range (see `equalise`). Then it trains for `fine_tuning_steps`, by the network's own
    recipe at a tenth of its learning rate.

    Args:
        model: trained, from `build_model`; it is not changed.
        dataset, indices: [n] the images to train on.
        calibration: images [N, height, width, channels] of 0-255, from which the ranges of activations start.
        recipe: of the training before.
        seed: of order and variations.
        equalised: False leaves the channels as they are.
        checkpoint: a folder to go on from after a break; removed by nobody but the caller.
        on_round: called after each round of steps.

    Returns:
        The folded model: it converts as the one before does, to the same operators.

    Raises:
        TrainingError: the loss is not finite.
    """
    import keras

    from edgenas.model.fake_quantised import FakeQuantised

    keras.utils.set_random_seed(seed)
    gentle = dataclasses.replace(recipe, learning_rate=recipe.rate_of(len(indices)) * RATE)
    folded = fold(model)
    network = FakeQuantised(equalise(folded, calibration) if equalised else folded, calibration)
    trainer = Trainer(network, dataset, gentle, "the network for int8")
    trainer.finish(indices, fine_tuning_steps(indices, recipe), seed, checkpoint, on_round)
    return network.model
