"""What each gate refuses, with which figures. What a bundle does about it: test_final_training.py."""

import dataclasses

import numpy as np
import pytest

from edgenas.cli.models import GATES as TYPED
from edgenas.deploy import GATES, Bundle, Gate, gates
from edgenas.deploy.manifest import Predicted
from edgenas.errors import CheckFailedError
from edgenas.model import Precision
from tests import made

PREDICTED = Predicted(1.0, (0.8, 1.3), 0.9, None, arena_kb=10.0, model_kb=90.0, peak_memory_kb=100.0)


def test_the_cli_knows_the_same_names() -> None:
    assert TYPED == GATES


def test_float_conversion_says_how_far_off_the_file_is() -> None:
    trained = np.random.default_rng(0).normal(size=(200, 10)).astype(np.float32)
    same = gates.float_conversion(trained, trained + np.float32(1e-6))
    assert same.passed
    assert same.figures["agreement"] == 1
    assert same.figures["largest_difference"] == pytest.approx(1e-6, rel=0.5)
    other = gates.float_conversion(trained, trained[::-1])
    assert not other.passed
    assert "at least 98%" in other.detail
    assert other.figures["mean_difference"] > 0.5
    broken = trained.copy()
    broken[3, 4] = np.nan
    found = gates.float_conversion(trained, broken)
    assert not found.passed
    assert found.figures == {"images": 200, "not_finite": 1}


@pytest.mark.parametrize(
    ("images", "lost", "won", "passes"),
    [
        (2000, 19, 0, True),  # 0.95 points for sure, but not over one
        (2000, 25, 0, False),
        (2000, 60, 35, False),
        (2000, 300, 278, True),  # 1.1 points, and chance explains it
        (100, 2, 0, True),
        (100, 20, 0, False),
        (2000, 0, 50, True),
    ],
)
def test_quantisation_fails_on_more_than_a_point_that_is_no_chance(
    images: int, lost: int, won: int, passes: bool
) -> None:
    before, after = np.ones(images, bool), np.ones(images, bool)
    after[:lost] = False
    before[lost : lost + won] = False
    found = gates.quantisation(before, after)
    assert found.passed is passes
    figures = found.figures
    assert figures["loss"] == pytest.approx((lost - won) / images)
    assert figures["loss"] == pytest.approx(figures["float32_accuracy"] - figures["int8_accuracy"])
    assert figures["loss_low"] <= figures["loss"] <= figures["loss_high"]
    assert f"{100 * figures['loss']:.2f} points" in found.detail


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_real_file_has_builtin_operators_and_takes_raw_pixels(bundle: Bundle, precision: Precision) -> None:
    content = bundle.model_path.read_bytes()
    assert gates.builtin_operators(content).passed
    found = gates.raw_pixels(content, precision)
    assert found.passed is (precision == "int8")
    assert (found.figures["scale"], found.figures["zero_point"]) == (1, 0)


def test_the_float_file_beside_an_int8_one_takes_raw_pixels_too(bundle: Bundle) -> None:
    content = bundle.model_path.read_bytes()
    assert gates.raw_pixels(content, "int8", made.FLOAT32.read_bytes()).passed
    assert not gates.raw_pixels(content, "int8", content).passed, "an int8 file is no float32 one"


def test_a_foreign_operator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """How it is read from a file: tests/model/test_operators.py."""
    kinds = {b"one": ("CONV_2D", "MEAN"), b"other": ("CONV_2D", "custom:FlexMatrixDeterminant")}
    monkeypatch.setattr(gates, "operator_kinds", kinds.__getitem__)
    assert gates.builtin_operators(b"one", b"one").passed
    found = gates.builtin_operators(b"one", b"other")
    assert not found.passed
    assert found.detail == "operators that no plain runtime has: FlexMatrixDeterminant"
    assert found.figures == {"kinds": 3, "foreign": 1}


@pytest.mark.parametrize(
    ("asked", "size_kb", "words"),
    [
        ({"max_latency_ms": 1.2}, 90.0, "latency_ms 1.3 of at most 1.2 IS TOO MUCH"),
        ({"max_arena_kb": 9.0}, 90.0, "arena_kb 10 of at most 9"),
        ({"max_model_kb": 90.5, "max_arena_kb": 11.0}, 91.0, "model_kb 91 of at most 90.5 IS"),
        ({"max_peak_memory_kb": 100.0, "max_latency_ms": None}, 91.0, "peak_memory_kb 101 of at most 100"),
    ],
)
def test_limits_hold_for_the_file_itself(asked: dict[str, float | None], size_kb: float, words: str) -> None:
    found = gates.limits(asked, PREDICTED, size_kb)
    assert not found.passed
    assert words in found.detail
    kept = gates.limits({name: most and 10 * most for name, most in asked.items()}, PREDICTED, size_kb)
    assert kept.passed
    assert set(kept.figures) == set(found.figures)


def test_a_limit_on_latency_needs_a_certified_table() -> None:
    unbacked = dataclasses.replace(PREDICTED, latency_interval_ms=None)
    found = gates.limits({"max_latency_ms": 5.0}, unbacked, 90.0)
    assert not found.passed
    assert "no certified table" in found.detail
    assert gates.limits({}, unbacked, 90.0).detail == "none asked"


def test_all_that_failed_is_named_and_what_is_allowed_is_marked() -> None:
    found = [Gate("quantisation", False, "too much", {}), Gate("raw_pixels", True, "fine", {}),
             Gate("limits", False, "too slow", {})]  # fmt: skip
    with pytest.raises(CheckFailedError, match=r"2 of 3 gates failed.*quantisation: too much; limits: too slow"):
        gates.let_through(found, [])
    with pytest.raises(CheckFailedError, match=r"1 of 3 .* limits: too slow.*; --allow limits writes"):
        gates.let_through(found, ["quantisation", "raw_pixels"])
    through = gates.let_through(found, ["quantisation", "limits"])
    assert [gate.allowed for gate in through] == [True, False, True]


@pytest.mark.parametrize(
    ("right", "images", "passes"),
    [
        ([15, 15, 15], 25, True),
        ([9, 8, 8], 25, False),  # a third: chance
        ([25, 0, 0], 25, False),  # one class named for everything
        ([12, 12, 12], 25, True),
        ([2, 3, 2], 5, False),  # 47% of 15 images may be luck
    ],
)
def test_a_network_that_has_not_learned_is_caught(right: list[int], images: int, passes: bool) -> None:
    true = np.repeat([0, 1, 2], images)
    named = np.concatenate(
        [np.where(np.arange(images) < count, label, (label + 1) % 3) for label, count in enumerate(right)]
    )
    if right == [25, 0, 0]:
        named = np.zeros_like(true)
    gate = gates.has_learned(true, named, 3)
    assert gate.passed is passes, gate.detail
    assert gate.figures["chance"] == pytest.approx(1 / 3) and gate.figures["low"] < gate.figures["balanced_accuracy"]
    assert gate.figures["accuracy"] == pytest.approx(sum(right) / (3 * images))
    assert f"on {3 * images} images, of which the largest class has 33.3%" in gate.detail


def test_naming_the_largest_class_alone_is_no_learning() -> None:
    true = np.array([0] * 90 + [1] * 10)
    gate = gates.has_learned(true, np.zeros_like(true), 2)
    assert not gate.passed
    assert (gate.figures["accuracy"], gate.figures["balanced_accuracy"]) == (0.9, 0.5)


@pytest.mark.parametrize(("classes", "images"), [(2, 30), (6, 20), (10, 8)])
def test_guessing_hardly_ever_passes_for_learning(classes: int, images: int) -> None:
    rng = np.random.default_rng(0)
    true = np.repeat(np.arange(classes), images)
    passed = [gates.has_learned(true, rng.integers(0, classes, len(true)), classes).passed for _ in range(1000)]
    assert sum(passed) <= 40, "the lower end of a 95% interval is below the truth 97.5% of the time"
