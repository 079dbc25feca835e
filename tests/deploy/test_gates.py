"""What each gate refuses, with which figures; and a network that quantises badly, caught and repaired."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.int8 import spoil
from edgenas.architecture import Architecture
from edgenas.cli.models import GATES as TYPED
from edgenas.deploy import GATES, Bundle, FinalTraining, Gate, gates, train_bundle
from edgenas.deploy.manifest import Predicted
from edgenas.errors import CheckFailedError, InputError
from edgenas.ledger import Ledger
from edgenas.model import Precision, build_model, convert
from tests.deploy.conftest import RECIPE, SMALL
from tests.model.test_operators import flex_file

Final = Callable[..., FinalTraining]
PREDICTED = Predicted(1.0, (0.8, 1.3), 0.9, None, arena_kb=10.0, model_kb=90.0, peak_memory_kb=100.0)
WIDE = Architecture.parse(
    "input_8x8x1 conv_k3_s1_c16_relu mbconv_k3_e3_s2_c16_relu mbconv_k3_e3_s1_c16_relu head_c32_relu dense_n10"
)


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
    assert gates.raw_pixels(content, "int8", convert(build_model(SMALL), "float32")).passed
    assert not gates.raw_pixels(content, "int8", content).passed, "an int8 file is no float32 one"


def test_a_foreign_operator_is_named() -> None:
    found = gates.builtin_operators(flex_file())
    assert not found.passed
    assert "FlexMatrixDeterminant" in found.detail


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


def test_an_unknown_gate_is_refused_before_anything_is_trained(final: Final, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(InputError, match=r"no gate 'limit'\. Did you mean 'limits'"):
        train_bundle(final(tmp_path, allow=("limit",)), ledger=ledger)
    assert ledger.entries("final_epoch") == []


def test_a_broken_limit_writes_nothing_unless_it_is_allowed(final: Final, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    request = final(tmp_path, epochs=2, precision="float32", limits={"max_model_kb": 0.5, "max_arena_kb": 0.5})
    with pytest.raises(CheckFailedError, match=r"limits: model_kb .* of at most 0.5 IS TOO MUCH; arena_kb"):
        train_bundle(request, ledger=ledger)
    assert ledger.entries("test_opened") == [], "the test split stays sealed"
    assert not request.folder.exists()
    made = train_bundle(dataclasses.replace(request, allow=("limits",)), ledger=ledger)
    assert len(ledger.entries("final_epoch")) == 2, "nothing was trained again"
    found = {gate.name: gate for gate in Bundle.load(made.folder).manifest.gates}
    assert list(found) == ["float_conversion", "builtin_operators", "raw_pixels", "limits"]
    assert (found["limits"].passed, found["limits"].allowed) == (False, True)
    assert found["limits"].figures["max_model_kb"] == 0.5
    assert [gate.allowed for gate in found.values()].count(True) == 1


def test_a_network_that_quantises_badly_is_caught_and_repaired(
    final: Final, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgenas.deploy import quantising, training

    train = training.train
    trained: list[Any] = []

    def train_badly(*arguments: Any, **more: Any) -> Any:
        trained.append(spoil(train(*arguments, **more), 256))
        return trained[-1]

    monkeypatch.setattr(training, "train", train_badly)
    recipe = dataclasses.replace(RECIPE, learning_rate=0.01)
    request = final(tmp_path, architecture=WIDE, candidate=WIDE.id, epochs=15, recipe=recipe)
    monkeypatch.setattr(quantising, "fine_tune", lambda model, *_, **__: model)
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(CheckFailedError, match=r"quantisation: int8 costs \d+\.\d+ points"):
        train_bundle(request, ledger=ledger)
    assert ledger.entries("test_opened") == []

    monkeypatch.undo()
    monkeypatch.setattr(training, "train", train_badly)
    bundle = train_bundle(request, ledger=ledger)
    manifest = bundle.manifest
    repair, (gate,) = manifest.repair, [gate for gate in manifest.gates if gate.name == "quantisation"]
    assert repair.kind == "fine-tuned"
    assert repair.epochs == len(ledger.entries("fine_tuning_epoch"))
    assert repair.loss_before is not None and repair.loss_after is not None
    assert repair.loss_before > 0.03 > repair.loss_after
    assert gate.passed and not gate.allowed
    assert manifest.accuracy.test > manifest.accuracy.float_test - 0.03
    low, high = manifest.accuracy.float_test_interval
    assert low < manifest.accuracy.float_test < high


def test_a_sound_network_is_not_touched(bundle: Bundle) -> None:
    repair = bundle.manifest.repair
    assert (repair.kind, repair.epochs, repair.loss_after) == ("none", 0, None)
    assert repair.loss_before is not None and repair.loss_before <= gates.MOST_LOSS
    assert [gate.name for gate in bundle.manifest.gates] == list(GATES)
    assert all(gate.passed and not gate.allowed for gate in bundle.manifest.gates)
