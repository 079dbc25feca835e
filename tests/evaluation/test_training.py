"""The training loop, a step or two on a tiny network: the same for a seed, also after a break; each setting counts."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgenas.architecture import Architecture
from edgenas.evaluation import training
from edgenas.evaluation.data import Dataset, split
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.training import TrainingError, at_scale, measure, prepare_tensorflow, train

TINY = Architecture.parse("input_8x8x1 conv_k3_s2_c8_relu6 head_c8_relu6 dense_n10")
RECIPE = Recipe(batch_size=16, learning_rate=0.02)


@pytest.fixture(scope="module")
def few(digits: Dataset) -> np.ndarray:
    """80 images, half of them of one class: five steps of 16."""
    prepare_tensorflow()
    chosen = split(digits, 0).train
    ones, others = (chosen[(digits.y[chosen] == 1) == is_one] for is_one in (True, False))
    return np.concatenate([ones[:40], others[:40]])


class _CutError(Exception):
    pass


def trained(digits: Dataset, few: np.ndarray, epochs: int = 1, seed: int = 1, **how: Any) -> list[np.ndarray]:
    recipe = dataclasses.replace(RECIPE, **how.pop("recipe", {}))
    model = train(TINY, digits, few, recipe, epochs, seed, **how)
    found: list[np.ndarray] = model.get_weights()
    return found


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def plain(digits: Dataset, few: np.ndarray) -> list[np.ndarray]:
    return trained(digits, few)


def test_it_goes_on_after_a_break_as_if_there_had_been_none(
    digits: Dataset, few: np.ndarray, plain: list[np.ndarray], tmp_path: Path
) -> None:
    seen: list[int] = []

    def on_epoch(epoch: int, values: dict[str, float]) -> None:
        assert np.isfinite(values["loss"]) and 0 <= values["accuracy"] <= 1
        seen.append(epoch)
        if seen == [1, 2]:
            raise _CutError

    whole = trained(digits, few, epochs=3)
    with pytest.raises(_CutError):
        trained(digits, few, epochs=3, checkpoint=tmp_path, on_epoch=on_epoch)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-2"]
    resumed = trained(digits, few, epochs=3, checkpoint=tmp_path, on_epoch=on_epoch)
    assert seen == [1, 2, 3]
    assert same(resumed, whole)
    assert not same(whole, plain)


def test_tensorflow_is_made_deterministic(few: np.ndarray) -> None:
    """Without it the order of sums depends on which thread is first, now and then."""
    from tensorflow.python.framework import config

    assert config.is_op_determinism_enabled()


def test_the_seed_says_what_comes_out(digits: Dataset, few: np.ndarray, plain: list[np.ndarray]) -> None:
    assert same(trained(digits, few), plain)
    slow = {"learning_rate": 1e-9}  # what it ends with is what it began with
    one, other = (trained(digits, few, seed=seed, recipe=slow) for seed in (1, 2))
    assert np.abs(one[0] - other[0]).max() > 0.1


def test_every_epoch_has_an_order_of_its_own(digits: Dataset, few: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    batches = training.batches

    def seeing(*arguments: Any, shuffle_seed: int, **how: Any) -> Any:
        seen.append(shuffle_seed)
        return batches(*arguments, shuffle_seed=shuffle_seed, **how)

    monkeypatch.setattr(training, "batches", seeing)
    trained(digits, few, epochs=3, seed=1)
    trained(digits, few, epochs=1, seed=2)
    assert len(set(seen)) == len(seen) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.01}, {"weight_decay": 0.5}, {"warmup": 0.9}, {"label_smoothing": 0.1}, {"flip": True},
        {"shift": 0.2}, {"balance_classes": True},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_every_setting_of_a_recipe_counts(
    change: dict[str, Any], digits: Dataset, few: np.ndarray, plain: list[np.ndarray]
) -> None:
    assert not same(trained(digits, few, recipe=change), plain)


def test_a_training_that_diverges_says_so(digits: Dataset, few: np.ndarray) -> None:
    with pytest.raises(TrainingError, match=f"The training of {TINY.id} diverged in epoch [12]: its loss is "):
        trained(digits, few, epochs=2, recipe={"learning_rate": 1e30})


def test_a_smaller_input_is_the_same_network_on_smaller_images(digits: Dataset, few: np.ndarray) -> None:
    large = Architecture.parse(str(TINY).replace("8x8x1", "16x16x1"))
    assert at_scale(large, 0.5) == TINY
    assert str(at_scale(large, 0.7)) == str(TINY).replace("8x8x1", "11x11x1")
    assert at_scale(TINY, 0.5) == TINY, "no side is below 8"
    shown = dataclasses.replace(digits, x=digits.x.repeat(2, axis=1).repeat(2, axis=2), input_shape=(16, 16, 1))
    model = train(large, shown, few, RECIPE, 1, 1, scale=0.5)
    assert model.inputs[0].shape[1:] == (8, 8, 1)
    found = measure(model, shown, few)
    assert found["n"] == len(few) and 0 <= found["accuracy"] <= 1
