"""Fine-tuning for int8: the same for the same seed, also after a break."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgenas.architecture import Architecture
from edgenas.evaluation import finetuning
from edgenas.evaluation.data import Dataset, split
from edgenas.evaluation.finetuning import fine_tune, fine_tuning_epochs
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.training import prepare_tensorflow, train

NETWORK = Architecture.parse("input_8x8x1 conv_k3_s2_c8_relu6 mbconv_k3_e3_s1_c8_relu6 head_c16_relu6 dense_n10")
RECIPE = Recipe(batch_size=64, learning_rate=0.02)


@pytest.fixture(scope="module")
def few(digits: Dataset) -> np.ndarray:
    """128 images: two steps an epoch."""
    return split(digits, 0).train[:128]


@pytest.fixture(scope="module")
def trained(digits: Dataset, few: np.ndarray) -> Any:
    prepare_tensorflow()
    return train(NETWORK, digits, few, RECIPE, 1, 1)


class _CutError(Exception):
    pass


def _tune(
    trained: Any, digits: Dataset, few: np.ndarray, checkpoint: Path | None = None, cut_after: int | None = None
) -> Any:
    seen: list[int] = []

    def on_epoch(epoch: int, values: dict[str, float]) -> None:
        assert np.isfinite(values["loss"])
        seen.append(epoch)
        if epoch == cut_after:
            raise _CutError

    calibration = digits.x[few[:100]].astype(np.float32)
    model = fine_tune(trained, digits, few, calibration, RECIPE, 5, checkpoint=checkpoint, on_epoch=on_epoch)
    return model, seen


def test_little_data_get_more_epochs() -> None:
    assert fine_tuning_epochs(np.arange(60_000), Recipe(batch_size=128)) == finetuning.EPOCHS
    assert fine_tuning_epochs(np.arange(640), RECIPE) == finetuning.LEAST_STEPS / 10


def test_it_goes_on_after_a_break_as_if_there_had_been_none(
    trained: Any, digits: Dataset, few: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "LEAST_STEPS", 1)
    before = [weight.numpy().copy() for weight in trained.weights]
    whole, seen = _tune(trained, digits, few)
    assert seen == [1, 2, 3]
    with pytest.raises(_CutError):
        _tune(trained, digits, few, tmp_path, cut_after=2)
    resumed, seen = _tune(trained, digits, few, tmp_path)
    assert seen == [3]
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for weight, kept in zip(trained.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), kept)
