"""Accuracy, recall by class, intervals, class weights."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score

from edgenas.errors import InputError
from edgenas.evaluation.data import above_chance, class_weights, metrics, paired_interval, wilson_interval


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=50))
def test_metrics_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, predicted = np.array(pairs).T
    found = metrics(true, predicted, 4)
    assert found["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    seen = np.unique(true)
    recalls = recall_score(true, predicted, labels=seen, average=None, zero_division=0)
    assert [found["recall"][label] for label in seen] == pytest.approx(recalls.tolist())
    assert found["balanced_accuracy"] == pytest.approx(recalls.mean())
    if len(seen) > 1 and set(predicted.tolist()) <= set(seen.tolist()):
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, predicted))
    assert [share is None for share in found["recall"]] == [label not in seen for label in range(4)]
    json.dumps(found, allow_nan=False)


def test_intervals_hold_what_they_say() -> None:
    """1,000 classifiers of a known accuracy, each on 90 images of three classes that are not alike."""
    rng = np.random.default_rng(0)
    true, chances = np.repeat([0, 1, 2], [50, 30, 10]), np.repeat([0.9, 0.6, 0.5], [50, 30, 10])
    held = {"accuracy": 0, "balanced_accuracy": 0}
    for _ in range(1000):
        predicted = np.where(rng.random(90) < chances, true, (true + 1) % 3)
        found = metrics(true, predicted, 3)
        for name, truth in (("accuracy", chances.mean()), ("balanced_accuracy", 2 / 3)):
            low, high = found[f"{name}_interval"]
            assert 0 <= low <= found[name] <= high <= 1
            held[name] += low <= truth <= high
    assert all(930 <= count <= 985 for count in held.values()), held


def test_chance_is_what_a_guess_gets_on_the_classes_that_occur() -> None:
    """And its error is how far guesses spread: by 4,000 of them, on classes that are not alike."""
    rng = np.random.default_rng(0)
    true = np.repeat([0, 1, 3], [30, 6, 3])
    found = [metrics(true, rng.choice([0, 1, 3], len(true)), 4) for _ in range(4000)]
    balanced = np.array([each["balanced_accuracy"] for each in found])
    assert found[0]["chance"] == pytest.approx(1 / 3) == pytest.approx(balanced.mean(), abs=0.01)
    assert found[0]["chance_error"] == pytest.approx(balanced.std(), rel=0.05)
    assert {(each["chance"], each["chance_error"]) for each in found} == {(1 / 3, found[0]["chance_error"])}
    alike = metrics(np.arange(100) % 4, np.zeros(100, int), 4)
    assert alike["chance_error"] == pytest.approx((0.25 * 0.75 / 100) ** 0.5), "as of any share"


def test_a_guess_is_seldom_above_chance_and_little_knowledge_is() -> None:
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(5), [60, 40, 40, 30, 30])

    def share_above(knows: float, **errors: float) -> float:
        known = [np.where(rng.random(200) < knows, true, rng.integers(0, 5, 200)) for _ in range(1000)]
        return float(np.mean([above_chance(metrics(true, named, 5), **errors) for named in known]))

    assert share_above(0) <= 0.005, "one in 740, were it normal"
    assert 0.1 < share_above(0, errors=1) < 0.22
    assert share_above(0.25) > 0.95
    always_the_largest = metrics(true, np.zeros(200, int), 5)
    assert always_the_largest["accuracy"] > 0.29 and not above_chance(always_the_largest)


def test_bad_labels() -> None:
    with pytest.raises(InputError, match="received 2 and 1"):
        metrics([0], [0, 1], 2)
    with pytest.raises(InputError, match="at least one"):
        metrics([], [], 2)
    with pytest.raises(InputError, match=r"y_pred: expected integers \[N\] of 0..1"):
        metrics([0], [2], 2)
    with pytest.raises(InputError, match="y_true: expected integers"):
        metrics([0.5], [1], 2)


def test_wilson_interval() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 10)[0] == 0 and wilson_interval(10, 10)[1] == pytest.approx(1)
    wide, narrow = wilson_interval(80, 100, 0.99), wilson_interval(80, 100, 0.5)
    assert wide[0] < narrow[0] < 0.8 < narrow[1] < wide[1]
    with pytest.raises(InputError, match="0 <= correct <= n"):
        wilson_interval(3, 2)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((18, 12, 2, 18), 0.0562, 0.3290),
        ((53, 0, 0, 1), -0.0729, 0.0729),
        ((0, 30, 0, 0), 0.8395, 1.0),
    ],
)
def test_paired_interval_gives_newcombes_own_examples(counts: tuple[int, ...], low: float, high: float) -> None:
    assert paired_interval(*counts) == pytest.approx((low, high), abs=1e-4)


def test_paired_interval_is_narrower_where_the_same_images_are_right() -> None:
    together, apart = paired_interval(1800, 20, 10, 170), paired_interval(1640, 180, 170, 10)
    assert together[1] - together[0] < 0.5 * (apart[1] - apart[0])
    assert paired_interval(1800, 20, 10, 170, 0.5)[1] < together[1]
    swapped = paired_interval(1800, 10, 20, 170)
    assert swapped == pytest.approx((-together[1], -together[0]))
    for bad in ((0, 0, 0, 0), (5, -1, 0, 0)):
        with pytest.raises(InputError):
            paired_interval(*bad)


def test_class_weights() -> None:
    y = [0] * 9 + [2] * 3
    weights = class_weights(y, 3)
    assert weights.tolist() == pytest.approx([12 / 18, 0, 2]) and weights.dtype == np.float32
    assert weights[y].mean() == pytest.approx(1)
