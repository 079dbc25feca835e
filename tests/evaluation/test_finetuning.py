"""Fine-tuning for int8: the same for the same seed, also after a break."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgenas.architecture import Architecture
from edgenas.evaluation import finetuning, training
from edgenas.evaluation.data import Dataset, split
from edgenas.evaluation.finetuning import fine_tune, fine_tuning_steps
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.training import prepare_tensorflow, rate_at, train

NETWORK = Architecture.parse("input_8x8x1 conv_k3_s2_c8_relu6 mbconv_k3_e3_s1_c8_relu6 head_c16_relu6 dense_n10")
RECIPE = Recipe(batch_size=64, learning_rate=0.02)


@pytest.fixture(scope="module")
def few(digits: Dataset) -> np.ndarray:
    """128 images: two steps a pass."""
    return split(digits, 0).train[:128]


@pytest.fixture(scope="module")
def trained(digits: Dataset, few: np.ndarray) -> Any:
    prepare_tensorflow()
    return train(NETWORK, digits, few, RECIPE, 2, 1)[0]


class _CutError(Exception):
    pass


def _tune(
    trained: Any, digits: Dataset, few: np.ndarray, checkpoint: Path | None = None, cut_after: int | None = None
) -> Any:
    seen: list[int] = []

    def on_round(done: int, values: dict[str, float]) -> None:
        assert np.isfinite(values["loss"])
        seen.append(done)
        if done == cut_after:
            raise _CutError

    calibration = digits.x[few[:100]].astype(np.float32)
    model = fine_tune(trained, digits, few, calibration, RECIPE, 5, checkpoint=checkpoint, on_round=on_round)
    return model, seen


def test_three_passes_and_of_little_data_more() -> None:
    assert fine_tuning_steps(np.arange(60_000), Recipe(batch_size=100)) == 3 * 600
    assert fine_tuning_steps(np.arange(60_000), Recipe()) == 3 * (60_000 // 128)
    assert fine_tuning_steps(np.arange(640), RECIPE) == finetuning.LEAST_STEPS


def test_it_goes_on_after_a_break_as_if_there_had_been_none(
    trained: Any, digits: Dataset, few: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tenth of the recipe's learning rate; what it is given is not changed."""
    rates: list[float] = []

    def noting(step: int, steps: int | None, highest: float) -> float:
        rates.append(highest)
        return rate_at(step, steps, highest)

    monkeypatch.setattr(training, "rate_at", noting)
    monkeypatch.setattr(training, "ROUND_STEPS", 2)
    monkeypatch.setattr(finetuning, "LEAST_STEPS", 1)
    before = [weight.numpy().copy() for weight in trained.weights]
    whole, seen = _tune(trained, digits, few)
    assert seen == [2, 4, 6], "three passes of two steps"
    assert rates == pytest.approx([RECIPE.rate_of(len(few)) / 10] * 6)
    with pytest.raises(_CutError):
        _tune(trained, digits, few, tmp_path, cut_after=4)
    resumed, seen = _tune(trained, digits, few, tmp_path)
    assert seen == [6]
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for weight, kept in zip(trained.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), kept)
