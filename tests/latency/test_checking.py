"""A table that still holds, and one that does not any more."""

import dataclasses
import itertools
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgenas.architecture import Architecture, Layer
from edgenas.cli.main import cli
from edgenas.errors import CheckFailedError, InputError
from edgenas.latency.profiling import checking
from edgenas.latency.profiling.bench import no_progress
from edgenas.latency.profiling.checking import LAYERS, Freshness, check_table
from edgenas.latency.profiling.planning import Plan
from edgenas.latency.profiling.profiler import EMPTY, Subject, profile
from edgenas.latency.profiling.rounds import Ratio, Rounds
from edgenas.latency.steadiness import STEADY, Steadiness
from edgenas.latency.table import LatencyTable
from tests.latency.conftest import here
from tests.latency.made import PLAN
from tests.latency.scripted import SPACE, Factor, Lab

Weather = Callable[..., None]


# On a device whose times follow a formula


@pytest.fixture
def table(lab: Lab, plan: Plan) -> LatencyTable:
    """Of the device "a"."""
    return profile(lab.device("a"), SPACE, "int8", plan=plan)


def networks_by(factor: float) -> Factor:
    return lambda subject, before: factor if isinstance(subject, Architecture) else 1.0


def layers_by(factor: float, of_ten: int) -> Factor:
    """So many of ten layers take so many times as long; the empty model's time is what it was."""

    def moved(subject: Subject, before: int) -> float:
        hit = isinstance(subject, Layer) and subject != EMPTY and zlib.crc32(str(subject).encode()) % 10 < of_ten
        return factor if hit else 1.0

    return moved


def scattered() -> Factor:
    """One network in three is faster by a fifth, one is slower: in the middle nothing has moved."""
    factors = itertools.cycle((0.8, 1.0, 1.2))
    return lambda subject, before: next(factors) if isinstance(subject, Architecture) else 1.0


def test_nothing_has_changed(lab: Lab, plan: Plan, table: LatencyTable):
    found = check_table(lab.device("a"), table)
    assert found.fresh and found.reasons == () and found.changes == ()
    assert (found.speed, found.networks) == (pytest.approx(1.0), pytest.approx(1.0))
    assert (found.in_interval, found.layers) == (1.0, pytest.approx(0.0, abs=1e-3))
    asked = [each for batch in lab.benches["a"].asked for each in batch]
    assert set(asked[: len(plan.certificate)]) == set(plan.certificate)
    assert len(asked) == len(plan.certificate) + min(LAYERS, len(plan.layers))


@pytest.mark.parametrize(
    ("speed", "factor", "reason"),
    [
        (1.19, networks_by(1.0), None),
        (1.21, networks_by(1.0), "the whole device takes 1.21 times as long as when the table was made"),
        (0.79, networks_by(1.0), "the whole device takes 0.79 times as long as when the table was made"),
        (1.0, networks_by(1.045), None),
        (1.0, networks_by(1.06), "networks take 1.06 times as long beside the reference model"),
        (1.0, networks_by(0.94), "networks take 0.94 times as long beside the reference model"),
        (1.0, layers_by(1.15, of_ten=10), None),
        (1.0, layers_by(1.3, of_ten=3), "one layer in ten has moved by more than 3"),
        (1.0, scattered(), "only 30% of the networks lie in the interval of their prediction"),
    ],
)
def test_a_table_is_stale_for_each_reason(
    lab: Lab, table: LatencyTable, speed: float, factor: Factor, reason: str | None
):
    found = check_table(lab.device("a", speed=speed, factor=factor), table)
    if reason is None:
        assert found.fresh, found.reasons
    else:
        assert not found.fresh
        (said,) = found.reasons
        assert reason in said


def test_the_layers_that_moved_most_are_named_and_those_that_take_nothing_do_not_count(lab: Lab, table: LatencyTable):
    ordered = sorted(table.entries, key=lambda layer: table.entries[layer].us)
    light, slow = ordered[0], ordered[-1]
    nothing = dataclasses.replace(table.entries[light], us=0.01)  # and now it takes a hundred times as long
    table = dataclasses.replace(table, entries=table.entries | {light: nothing})
    found = check_table(lab.device("a", factor=lambda subject, before: 2.0 if subject == slow else 1.0), table)
    assert found.fresh
    assert len(found.worst) == 5 and found.worst[0] == (str(slow), pytest.approx(2.0, rel=0.05))
    assert str(light) not in dict(found.worst)


def test_what_changed_of_the_device_is_named(lab: Lab, table: LatencyTable):
    device = lab.device("a", runtime_version="2.4.0")
    lab.benches["a"].info.kernel = "6.1"
    assert check_table(device, table).changes == ("kernel: 0 became 6.1", "runtime version: 2.3.0 became 2.4.0")


def test_a_model_that_does_not_run_any_more_is_said_to(lab: Lab, plan: Plan, table: LatencyTable):
    with pytest.raises(CheckFailedError, match=r"^a: .*\.tflite does not run there: invalid model"):
        check_table(lab.device("a", fails={plan.certificate[0]}), table)


@pytest.mark.parametrize("change", [{"certificate": None}, {"reference": ("", 0.0), "source": "imported"}])
def test_a_table_without_measured_networks_cannot_be_checked(lab: Lab, table: LatencyTable, change: dict[str, object]):
    with pytest.raises(InputError, match=r"is (measured|imported) and has no measured networks"):
        check_table(lab.device("a"), dataclasses.replace(table, **change))  # type: ignore[arg-type]


# By a real agent, on a virtual machine


def in_project(project: Path, table: LatencyTable) -> None:
    """The table and its device, as a user has them."""
    here(project).save()
    table.save(project / "latency_tables" / "mine.json")


def check(project: Path, table: LatencyTable) -> tuple[dict[str, object], BaseException | None]:
    """What `table check --json` prints, and how it ends."""
    in_project(project, table)
    result = CliRunner().invoke(cli, ["table", "check", "mine", "--json"])
    return json.loads(result.stdout), result.exception


def test_a_fresh_table_is_fresh(project: Path, quiet: LatencyTable):
    found, error = check(project, quiet)
    assert error is None and found["fresh"] is True and found["reasons"] == found["changes"] == []
    assert (found["speed"], found["networks"]) == (pytest.approx(1, abs=0.005), pytest.approx(1, abs=0.005))
    assert found["in_interval"] == 1.0
    assert 0 <= float(str(found["layers"])) < 0.01


@pytest.mark.parametrize(
    ("befalls", "reason"),
    [
        ({"speed": 1.3}, "the whole device takes 1.30 times as long as when the table was made"),
        ({"kinds": {"DEPTHWISE_CONV_2D": 3.0}}, "one layer in ten has moved by more than "),
    ],
    ids=["it is slower", "it has lost its fast kernels"],
)
def test_a_stale_table_ends_the_command_with_code_4(
    project: Path, quiet: LatencyTable, weather: Weather, befalls: dict[str, object], reason: str
):
    weather(**befalls)
    found, error = check(project, quiet)
    assert isinstance(error, CheckFailedError) and error.exit_code == 4
    assert found["fresh"] is False
    assert any(reason in str(said) for said in found["reasons"])  # type: ignore[attr-defined]
    assert {"networks", "in_interval", "layers", "worst", "changes"} <= set(found)


def test_a_fresh_table_is_fresh_on_a_device_that_does_not_keep_still(
    project: Path, quiet: LatencyTable, weather: Weather
):
    weather(lost_every=145, lost_us=3000)
    waits: list[tuple[int, int]] = []
    found = check_table(
        here(project), quiet, lambda what, *wait: waits.append(wait) if what.startswith("waiting") else None
    )
    assert waits == [(1, 3), (2, 3)], "then it was measured as it is"
    assert found.fresh, found.reasons
    assert (found.speed, found.networks) == (pytest.approx(1, abs=0.001), pytest.approx(1, abs=0.001))
    assert found.layers < 0.001 and found.in_interval == 1.0


BUSY = Steadiness(True, 0.4, 0.3, "Now: load 9.0.")


def test_what_seems_stale_on_a_busy_device_is_not_judged(
    project: Path, quiet: LatencyTable, monkeypatch: pytest.MonkeyPatch
):
    seems = Freshness((), speed=1.3, networks=1.0, in_interval=1.0, layers=0.0, worst=(), steadiness=BUSY)
    assert seems.fresh is None and len(seems.reasons) == 1
    assert dataclasses.replace(seems, speed=1.0).fresh is True
    assert dataclasses.replace(seems, steadiness=STEADY).fresh is False
    monkeypatch.setattr(checking, "check_table", lambda *_: seems)
    found, error = check(project, quiet)
    assert error is None and found["fresh"] is None
    said = CliRunner().invoke(cli, ["table", "check", "mine"])
    assert said.exit_code == 0
    assert (
        "not judged, the device is busy (disturbed: 40% of the visits" in said.output
        and "Now: load 9.0." in said.output
    )


def test_a_check_was_as_steady_as_its_worst_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checking, "BATCH", 1)
    batches = iter([STEADY, BUSY, STEADY])

    class Bench:
        def measure(self, models: list[Path], reference: Path) -> Rounds:
            ratio = Ratio(1.0, 0.01, None, None)
            return Rounds((np.ones(4),), {}, 10.0, 4, 0, 0, 1.0, ratios=(ratio,), steadiness=next(batches))

    paths = [tmp_path / name for name in ("a", "b", "c", "reference")]
    ratios, steadiness = checking.measure_again(Bench(), paths, no_progress)  # type: ignore[arg-type]
    assert len(ratios) == 3 and steadiness == BUSY


def test_the_kernels_of_a_layer_on_the_device_itself(project: Path, quiet: LatencyTable):
    in_project(project, quiet)
    layer = next(layer for layer in PLAN.layers if str(layer).startswith("mbconv_k3_e3"))
    result = CliRunner().invoke(cli, ["table", "show", "mine", "--layer", str(layer), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["us"] == quiet.entries[layer].us
    assert any("DWConv" in kernel["name"] for kernel in found["kernels"])
    assert sum(kernel["us"] for kernel in found["kernels"]) == pytest.approx(found["total_us"])
