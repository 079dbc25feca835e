"""The training loop, a few steps on a tiny network: the same for a seed, also after a break; each setting counts."""

import dataclasses
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgenas.architecture import Architecture
from edgenas.evaluation import training
from edgenas.evaluation.checkpoint import Checkpoint
from edgenas.evaluation.curve import Curve
from edgenas.evaluation.data import Dataset, split
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.training import (
    Trainer,
    TrainingError,
    at_scale,
    measure,
    predict,
    prepare_tensorflow,
    rate_at,
    train,
)
from edgenas.model import keras_on_tensorflow

TINY = Architecture.parse("input_8x8x1 conv_k3_s2_c8_relu6 head_c8_relu6 dense_n10")
RECIPE = Recipe(batch_size=16, learning_rate=0.02, augment="none")


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "ROUND_STEPS", 5)


@pytest.fixture(scope="module")
def few(digits: Dataset) -> np.ndarray:
    """80 images, half of them of one class: five steps of 16."""
    prepare_tensorflow()
    chosen = split(digits, 0).train
    ones, others = (chosen[(digits.y[chosen] == 1) == is_one] for is_one in (True, False))
    return np.concatenate([ones[:40], others[:40]])


class _CutError(Exception):
    pass


def trained(digits: Dataset, few: np.ndarray, steps: int = 5, seed: int = 1, **how: Any) -> list[np.ndarray]:
    recipe = dataclasses.replace(RECIPE, **how.pop("recipe", {}))
    model, _ = train(TINY, digits, few, recipe, steps, seed, **how)
    found: list[np.ndarray] = model.get_weights()
    return found


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def plain(digits: Dataset, few: np.ndarray) -> list[np.ndarray]:
    return trained(digits, few)


@pytest.mark.parametrize("recipe", [{}, {"augment": "strong", "flip": True, "mixup": 0.2}], ids=["plain", "varied"])
def test_it_goes_on_after_a_break_as_if_there_had_been_none(
    digits: Dataset, few: np.ndarray, plain: list[np.ndarray], tmp_path: Path, recipe: dict[str, Any]
) -> None:
    seen: list[int] = []

    def on_round(done: int, values: dict[str, float]) -> None:
        assert np.isfinite(values["loss"]) and 0 <= values["accuracy"] <= 1
        seen.append(done)
        if seen == [5, 10]:
            raise _CutError

    changed = dataclasses.replace(RECIPE, **recipe)
    whole, whole_curve = train(TINY, digits, few, changed, 13, 1)
    with pytest.raises(_CutError):
        train(TINY, digits, few, changed, 13, 1, checkpoint=tmp_path, on_round=on_round)
    assert [path.name for path in tmp_path.iterdir()] == ["step-10"]
    resumed, curve = train(TINY, digits, few, changed, 13, 1, checkpoint=tmp_path, on_round=on_round)
    assert seen == [5, 10, 13]
    assert same(resumed.get_weights(), whole.get_weights())
    assert not same(whole.get_weights(), plain)
    assert curve == whole_curve, "of the whole training, not of what came after the break"
    again, curve = train(TINY, digits, few, changed, 13, 1, checkpoint=tmp_path, on_round=on_round)
    assert seen == [5, 10, 13], "it is done"
    assert same(again.get_weights(), whole.get_weights()) and curve == whole_curve


def test_the_curve_is_what_was_told_of_each_round(digits: Dataset, few: np.ndarray) -> None:
    told: dict[int, dict[str, float]] = {}
    _, curve = train(TINY, digits, few, RECIPE, 40, 1, on_round=lambda done, values: told.update({done: values}))
    assert curve == Curve(
        TINY.id, tuple(range(5, 41, 5)), *(tuple(values[name] for values in told.values())
                                           for name in ("loss", "accuracy"))
    )  # fmt: skip
    assert curve.loss[-1] < 0.8 * curve.loss[0], "it learns"
    assert curve.accuracy[-1] > curve.accuracy[0]


def test_tensorflow_is_made_deterministic(few: np.ndarray) -> None:
    """Without it the order of sums depends on which thread is first, now and then."""
    from tensorflow.python.framework import config

    assert config.is_op_determinism_enabled()


def test_the_seed_says_what_comes_out(digits: Dataset, few: np.ndarray, plain: list[np.ndarray]) -> None:
    assert same(trained(digits, few), plain)
    slow = {"learning_rate": 1e-9}  # what it ends with is what it began with
    one, other = (trained(digits, few, seed=seed, recipe=slow) for seed in (1, 2))
    assert np.abs(one[0] - other[0]).max() > 0.1


def test_a_trainer_that_begins_anew_is_as_good_as_a_new_one(
    digits: Dataset, few: np.ndarray, plain: list[np.ndarray]
) -> None:
    """Weights, statistics, the optimizer's moments, averages, weights of classes: nothing stays of the one before."""
    trainer = Trainer.of(TINY, digits, RECIPE, averaged=True)
    trainer.begin(2)
    trainer.finish(few, 7, 2)
    other, average = trainer.model.get_weights(), trainer.predict_averaged(few)
    trainer.begin(1)
    trainer.finish(few, 5, 1)
    assert same(trainer.model.get_weights(), plain)
    trainer.begin(2)
    trainer.finish(few, 7, 2)
    assert same(trainer.model.get_weights(), other)
    assert (trainer.predict_averaged(few) == average).all()
    assert not same(other, plain)


def test_the_average_follows_the_weights(digits: Dataset, few: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast at first, when little is behind it; measuring it leaves the network as it is."""
    monkeypatch.setattr(training, "ROUND_STEPS", 1)
    trainer = Trainer.of(TINY, digits, RECIPE, averaged=True)
    trainer.begin(1)
    average = [each.numpy() for each in trainer.model.variables]
    kept = []
    for done, _ in trainer.rounds(few, range(12), None, 1):
        kept.append(min(training.AVERAGED, done / (done + 9)))
        average = [kept[-1] * mean + (1 - kept[-1]) * each.numpy()
                   for mean, each in zip(average, trainer.model.variables, strict=True)]  # fmt: skip
    assert kept[0] == 0.1 and kept == sorted(kept)
    weights, found = trainer.model.get_weights(), trainer.predict_averaged(few)
    assert same(trainer.model.get_weights(), weights)
    now = trainer.predict(few)
    assert (now == predict(trainer.model, digits, few)).all() and now.shape == (80, 10)
    for each, mean in zip(trainer.model.variables, average, strict=True):
        each.assign(mean)
    np.testing.assert_allclose(found, trainer.predict(few), rtol=1e-4, atol=1e-4)
    assert np.abs(found - now).max() > 0.01


def test_a_trainers_state_is_all_that_training_changes(digits: Dataset, few: np.ndarray, tmp_path: Path) -> None:
    """What looks for the step to stop at goes on from it, its averages included."""

    def run(trainer: Trainer, steps: range) -> None:
        for _ in trainer.rounds(few, steps, None, 1, "light"):
            pass

    first, second = (Trainer.of(TINY, digits, RECIPE, averaged=True) for _ in range(2))
    first.begin(1)
    run(first, range(5))
    Checkpoint(tmp_path).save(5, first.state)
    run(first, range(5, 10))
    second.begin(9)
    assert Checkpoint(tmp_path).restore(second.state) == (5, None)
    run(second, range(5, 10))
    assert same(second.model.get_weights(), first.model.get_weights())
    assert (second.predict_averaged(few) == first.predict_averaged(few)).all()


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 20}, {"learning_rate": 0.01}, {"weight_decay": 0.5}, {"label_smoothing": 0.1},
        {"augment": "light"}, {"augment": "strong"}, {"flip": True}, {"mixup": 0.2}, {"balance_classes": True},
    ],
    ids=lambda change: str(next(iter(change.items()))),
)  # fmt: skip
def test_every_setting_of_a_recipe_counts(
    change: dict[str, Any], digits: Dataset, few: np.ndarray, plain: list[np.ndarray]
) -> None:
    assert not same(trained(digits, few, recipe=change), plain)


def test_a_grade_that_is_asked_for_takes_the_place_of_the_recipes(digits: Dataset, few: np.ndarray) -> None:
    varied = trained(digits, few, recipe={"augment": "strong"})
    trainer = Trainer.of(TINY, digits, RECIPE)
    trainer.begin(1)
    for _ in trainer.rounds(few, range(5), 5, 1, "strong"):
        pass
    assert same(trainer.model.get_weights(), varied)


def test_a_training_that_diverges_says_so(digits: Dataset, few: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=f"The training of {TINY.id} diverged by step (5|10): its loss is "):
        trained(digits, few, steps=10, recipe={"learning_rate": 1e30}, checkpoint=tmp_path)
    assert "step-10" not in [path.name for path in tmp_path.iterdir()], "what is not finite is not gone on from"


def test_a_smaller_input_is_the_same_network_on_smaller_images(digits: Dataset, few: np.ndarray) -> None:
    large = Architecture.parse(str(TINY).replace("8x8x1", "16x16x1"))
    assert at_scale(large, 0.5) == TINY
    assert at_scale(large, 1.0) is large
    assert str(at_scale(large, 0.7)) == str(TINY).replace("8x8x1", "11x11x1")
    assert at_scale(TINY, 0.5) == TINY, "no side is below 8"
    shown = dataclasses.replace(digits, x=digits.x.repeat(2, axis=1).repeat(2, axis=2), input_shape=(16, 16, 1))
    trainer = Trainer.of(at_scale(large, 0.5), shown, RECIPE)
    trainer.begin(1)
    trainer.finish(few, 5, 1)
    assert trainer.model.inputs[0].shape[1:] == (8, 8, 1)
    found = measure(trainer.model, shown, few)
    assert found["n"] == len(few) and 0 <= found["accuracy"] <= 1
    assert found["accuracy"] == (trainer.predict(few).argmax(axis=1) == shown.y[few]).mean()


# The learning rate


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    rates = np.array([rate_at(step, 1000, 0.5) for step in range(1000)])
    assert (np.diff(rates[:100]) > 0).all() and rates[0] == pytest.approx(0.005)
    assert (rates[99:751] == 0.5).all()
    assert (np.diff(rates[750:]) < 0).all() and 0 < rates[-1] < 0.002
    assert rates[875] == pytest.approx(0.5 * (1 - 0.5**0.5)), "as 1 less the square root of the progress"
    assert rate_at(1000, 1000, 0.5) == 0


def test_the_rate_does_not_depend_on_how_long_the_training_is_until_it_falls() -> None:
    """So a training can look for the step to stop at."""
    for step in (0, 50, 99, 100, 449):
        assert len({rate_at(step, steps, 0.01) for steps in (600, 1000, 50_000, None)}) == 1
    assert all(rate_at(step, None, 0.01) == 0.01 for step in (100, 10_000, 10**7))


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_a_short_training_warms_up_for_a_fifth_of_it(steps: int) -> None:
    rates = [rate_at(step, steps, 1.0) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert rates.index(max(rates)) == max(1, steps // 5) - 1 and max(rates) == 1


def test_each_step_has_its_own_rate(digits: Dataset, few: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int | None, float]] = []

    def noting(step: int, steps: int | None, highest: float) -> float:
        asked.append((step, steps, highest))
        return 0.25 / (1 + step)

    monkeypatch.setattr(training, "rate_at", noting)
    trainer = Trainer.of(TINY, digits, dataclasses.replace(RECIPE, learning_rate=None))
    trainer.begin(1)
    trainer.finish(few, 7, 1)
    assert asked == [(step, 7, 0.012) for step in range(7)], "the highest is the recipe's for so many images"
    asked.clear()
    for _ in trainer.rounds(few, range(3), None, 1):
        pass
    assert asked == [(step, None, 0.012) for step in range(3)]
    weights = [each.numpy() for each in trainer.model.trainable_variables]
    monkeypatch.setattr(training, "rate_at", lambda *_: 0.0)
    trainer.finish(few, 3, 1)
    assert all((each.numpy() == before).all()
               for each, before in zip(trainer.model.trainable_variables, weights, strict=True))  # fmt: skip


def test_a_step_is_that_of_keras_adamw_and_its_graph_is_freed(digits: Dataset, few: np.ndarray) -> None:
    """`AdamW.apply` gives the same weights, but keeps the graph of each network that it has trained."""
    keras = keras_on_tensorflow()
    import tensorflow as tf

    recipe = dataclasses.replace(RECIPE, weight_decay=0.3, label_smoothing=0.0)
    trainer = Trainer.of(TINY, digits, recipe)
    trainer.begin(1)
    model = keras.models.clone_model(trainer.model)
    model.set_weights(trainer.model.get_weights())
    adamw = keras.optimizers.AdamW(0.01, weight_decay=0.3, beta_2=training.SQUARES)
    adamw.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    loss_of = keras.losses.CategoricalCrossentropy(from_logits=True)
    images, labels = digits.x[few[:8]].astype(np.float32), np.eye(10, dtype=np.float32)[digits.y[few[:8]]]
    for _ in range(3):
        trainer._step(images, labels, np.float32(0.01), np.float32(0.9))
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        adamw.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    for own, theirs in zip(trainer.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(own, theirs, rtol=1e-4, atol=1e-5)
    graph = weakref.ref(trainer._step.get_concrete_function(images, labels, np.float32(0.01), np.float32(0.9)).graph)
    del trainer
    gc.collect()
    assert graph() is None
