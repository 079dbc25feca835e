"""What is measured of a model, what it is held to, and what is promised: with times that a test says."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from edgenas.architecture import Architecture
from edgenas.deploy import Bundle, promise, ship, verify
from edgenas.deploy.manifest import TableUsed
from edgenas.deploy.promise import Measured, Promise, files_beside, measured_beside, room_beside
from edgenas.deploy.shipment import Shipment, threads_of
from edgenas.device import Agent, Device, Limits
from edgenas.errors import CheckFailedError, DeviceError, InputError
from edgenas.latency.profiling.rounds import Ratio, Rounds, median_interval
from edgenas.latency.table import Identity, LatencyTable
from edgenas.latency.table.certificate import Network
from tests import made
from tests.deploy.conftest import SMALL, certified
from tests.deploy.inside import Inside

TableOf = Callable[..., LatencyTable]
Rewritten = Callable[..., Bundle]
IDENTITY = Identity(
    "here", "f" * 12, "made up", 4, 1, "none", "6", "", "", "ai-edge-litert", "2.3.0", "XNNPACK", 1, None, "int8", "c"
)
HERE = Device("here", "local:")


def rounds(*ratios: float, times_us: tuple[float, ...] = (90.0, 100.0, 130.0), failed: int | None = None) -> Rounds:
    """Of a model, and of anchors after it."""
    found = tuple(None if index == failed else Ratio(ratio, 0.01, ratio, None) for index, ratio in enumerate(ratios))
    why = {} if failed is None else {failed: "killed by SIGILL"}
    return Rounds((np.array(times_us),) * len(ratios), why, 10.0, 3, 0, 0, 1.0, found)


def anchors(*took_ms: float) -> list[Network]:
    return [Network(str(SMALL), ms, ms, ms) for ms in took_ms]


# What was measured


@pytest.mark.parametrize(
    ("anchor_ratios", "expected_ms"),
    [
        ((), 0.12),  # no anchors: nothing to divide by
        ((2.0, 4.0, 6.0), 0.12),  # they take what they took
        ((2.06, 4.12, 6.18), 0.12 / 1.03),  # the device is 3% slower now: so is the model
        ((1.96, 3.92, 5.88), 0.12 / 0.98),
        ((2.06, 4.12, 12.0), 0.12 / 1.03),  # the median: one of them is no judge
        ((4.0, 8.0, 12.0), 0.12 / 1.05),  # a stale table is not excused
    ],
)
def test_the_state_of_the_device_is_divided_out(anchor_ratios: tuple[float, ...], expected_ms: float) -> None:
    table, took = certified(IDENTITY, 80.0), anchors(0.02, 0.04, 0.06)[: len(anchor_ratios)]
    found = measured_beside(HERE, table, took, rounds(12.0, *anchor_ratios))
    assert found.normalised_ms == pytest.approx(expected_ms)
    assert found.median_ms == pytest.approx(0.1), "as the clock showed it"
    assert found.p90_ms == pytest.approx(0.124)
    assert found.interval_ms == tuple(end / 1000 for end in median_interval(np.array([90.0, 100.0, 130.0])))


def test_without_a_table_there_is_no_other_unit() -> None:
    found = measured_beside(HERE, None, [], rounds(12.0))
    assert (found.median_ms, found.normalised_ms) == (pytest.approx(0.1), None)


@pytest.mark.parametrize(("failed", "words"), [(0, "the model does"), (1, "a network of the table does")])
def test_what_does_not_run_is_named(failed: int, words: str) -> None:
    with pytest.raises(CheckFailedError, match=f"here: {words} not run there: killed by SIGILL"):
        measured_beside(HERE, certified(IDENTITY, 80.0), anchors(0.02), rounds(12.0, 2.0, failed=failed))


def test_the_reference_comes_first_then_the_anchors_in_the_tables_precision() -> None:
    table, took = certified(IDENTITY, 80.0), anchors(0.02, 0.03)
    found = files_beside(table, took)
    assert [path.read_bytes() for path in found] == [made.INT8.read_bytes()] * 3
    assert [path.read_bytes() for path in files_beside(None, [])] == [made.FLOAT32.read_bytes()]
    # Once in an archive, once unpacked.
    assert room_beside(certified(IDENTITY, 80.0, anchors_ms=(0.02, 0.03))) == 2 * 3 * made.INT8.stat().st_size
    assert room_beside(None) == 2 * made.FLOAT32.stat().st_size


def test_room_is_asked_for_what_is_measured_beside_and_for_the_samples(
    local: Device, inside: Inside, bundle: Bundle, table_of: TableOf
) -> None:
    assert bundle.samples is not None
    samples = bundle.samples.images.nbytes + bundle.samples.outputs.nbytes
    for table in (None, table_of(local, 1e6, anchors_ms=(0.01, 0.02))):
        ship(bundle, local, "digits", table=table, dry_run=True)
        assert inside.params_of("prepare")[-1]["spare_bytes"] == samples + room_beside(table)
    private = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, files={}))
    ship(private, local, "digits", dry_run=True)
    assert inside.params_of("prepare")[-1]["spare_bytes"] == room_beside(None)


def test_the_anchors_of_a_table_are_measured_beside_the_model(
    local: Device, inside: Inside, bundle: Bundle, table_of: TableOf
) -> None:
    inside.beside_us = [10.0, 20.6, 41.2]  # they took 20 and 40: the device is 3% slower
    shipped = ship(bundle, local, "digits", table=table_of(local, 1e6, anchors_ms=(0.02, 0.04)), dry_run=True)
    assert [Path(path).name for path in inside.params_of("measure")[0]["models"]] == [
        "model.tflite", "beside_1.tflite", "beside_2.tflite",
    ]  # fmt: skip
    assert shipped.normalised_ms == pytest.approx(0.04 / 1.03)
    assert shipped.latency_ms["median"] == pytest.approx(0.04)


# Threads


def test_threads_are_the_tables_or_those_of_the_table_that_it_rests_on(bundle: Bundle) -> None:
    def used(threads: int) -> Bundle:
        table = TableUsed("t", "measured", dataclasses.replace(IDENTITY, threads=threads))
        return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, table=table))

    given = certified(dataclasses.replace(IDENTITY, threads=2), 80.0)
    assert threads_of(bundle, None) == 1
    assert threads_of(used(4), None) == 4
    assert threads_of(used(4), given) == 2


def test_it_is_measured_with_as_many_threads(
    local: Device, inside: Inside, bundle: Bundle, rewritten: Rewritten, table_of: TableOf, tmp_path: Path
) -> None:
    table = table_of(local, 1e6, threads=3)
    used = rewritten(bundle, tmp_path, table=TableUsed("t", "measured", dataclasses.replace(IDENTITY, threads=2)))
    ship(used, local, "digits")
    assert [inside.params_of(op)[-1]["threads"] for op in ("single", "infer")] == [2, 2]
    ship(rewritten(bundle, tmp_path), local, "digits", table=table)
    assert [inside.params_of(op)[-1]["threads"] for op in ("measure", "infer")] == [3, 3]
    verify(local, "digits")
    assert inside.params_of("single")[-1]["threads"] == 3, "as it was shipped"


def test_a_manifest_does_not_set_a_board_s_threads(
    local: Device, inside: Inside, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    """There are 4 cores."""
    for threads in (5, 1500):
        table = TableUsed("t", "measured", dataclasses.replace(IDENTITY, threads=threads))
        used = rewritten(bundle, tmp_path, table=table)
        with pytest.raises(InputError, match=f"asks for {threads} threads an inference, and the device has 4 cores"):
            ship(used, local, "digits")
    assert not inside.params_of("prepare"), "nothing was sent"


def test_more_threads_than_its_cores_are_refused(local: Device, inside: Inside, bundle: Bundle) -> None:
    agent = cast(Agent, SimpleNamespace(device=dataclasses.replace(local, runtime=dataclasses.replace(
        local.runtime, cores=(0,)))))  # fmt: skip
    with pytest.raises(InputError, match="is kept on 1 core: no room for 2 threads"):
        promise.measure_there(agent, "m", "r", 1, 2)


# The limit


class Held(Shipment):
    """A shipment that is only held to what was measured."""

    def _live(self) -> int | None:
        return None

    def _clear(self, *sent: str) -> None:
        pass


def held(bundle: Bundle, study_ms: float | None, device_ms: float | None) -> Held:
    limited = dataclasses.replace(bundle.manifest, limits={"max_latency_ms": study_ms})
    device = dataclasses.replace(HERE, limits=Limits(max_latency_ms=device_ms))
    nothing = Promise(None, None, "no table")
    return Held(
        dataclasses.replace(bundle, manifest=limited), "int8", "digits", device, None, nothing, None, lambda *_: None
    )


@pytest.mark.parametrize(
    ("study_ms", "device_ms", "limit_ms"),
    [(None, None, None), (2.0, None, 2.0), (None, 3.0, 3.0), (2.0, 3.0, 2.0), (3.0, 2.0, 2.0)],
)
def test_the_stricter_of_the_studys_limit_and_the_devices_holds(
    bundle: Bundle, study_ms: float | None, device_ms: float | None, limit_ms: float | None
) -> None:
    shipment = held(bundle, study_ms, device_ms)
    within, over = Measured(2.0, 2.2, (1.9, 2.1), None), Measured(4.0, 4.2, (3.9, 4.1), None)
    shipment._hold_to_limit(within)
    result = shipment._result(within, None, dry_run=True)
    assert result.limit_ms == limit_ms
    assert [check.passed for check in result.checks if check.name == "limit"] == ([] if limit_ms is None else [True])
    if limit_ms is not None:
        with pytest.raises(CheckFailedError, match=rf"3\.9 to 4\.1.*at most {limit_ms:g} ms allowed"):
            shipment._hold_to_limit(over)


@pytest.mark.parametrize(("low_ms", "passes"), [(1.99, True), (2.0, True), (2.01, False)])
def test_the_lower_end_of_what_was_measured_is_held_to_the_limit(bundle: Bundle, low_ms: float, passes: bool) -> None:
    """It is refused only where it is slower for sure: the median of the first two is over the limit, too."""
    shipment, measured = held(bundle, 2.0, None), Measured(2.5, 3.0, (low_ms, 2.9), None)
    if passes:
        shipment._hold_to_limit(measured)
    else:
        with pytest.raises(CheckFailedError, match=r"here: the model is slower than its limit: 2\.5 ms measured"):
            shipment._hold_to_limit(measured)
    assert [(check.name, check.passed) for check in shipment._checks] == [("limit", passes)]


def test_a_model_that_is_slower_than_its_limit_does_not_go_live(
    local: Device, inside: Inside, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    low, high = median_interval(np.array(inside.runs_us(100)) / 1000)
    assert low < 0.04 < high
    kept = rewritten(bundle, tmp_path, limits={"max_latency_ms": low})
    shipped = ship(kept, local, "digits")
    assert (shipped.limit_ms, shipped.latency_interval_ms) == (low, (low, high))
    one = kept.manifest.release
    for strict, device in (
        (rewritten(bundle, tmp_path, limits={"max_latency_ms": low * 0.999}), local),
        (rewritten(bundle, tmp_path), dataclasses.replace(local, limits=Limits(max_latency_ms=low * 0.999))),
    ):
        with pytest.raises(CheckFailedError, match=rf"slower than its limit: 0\.04 ms.*still live: release {one}"):
            ship(strict, device, "digits")


# What is promised


def on(fingerprint: str = "f" * 12, version: str = "2.3.0", cores: tuple[int, ...] | None = None) -> Agent:
    """An agent that says so of its device."""
    device = dataclasses.replace(HERE, runtime=dataclasses.replace(HERE.runtime, cores=cores))
    said = SimpleNamespace(fingerprint=fingerprint)
    return cast(Agent, SimpleNamespace(device=device, info=said, runtime_version=lambda package: version))


def test_the_upper_end_of_the_tables_interval_is_promised() -> None:
    """Of ten networks that differed by 10% to 40% the tenth backs a coverage of 90%."""
    found = promise.promise(certified(IDENTITY, 80.0), SMALL, on())
    assert (found.predicted_ms, found.gap) == (pytest.approx(0.08), None)
    assert found.highest_ms == pytest.approx(0.08 / 0.6)
    assert found.highest_ms is not None
    assert [found.kept(ms) for ms in (None, 0.09, found.highest_ms, found.highest_ms * 1.001)] == [
        None, True, True, False,
    ]  # fmt: skip
    assert Promise(0.08, None, "why").kept(0.01) is None


@pytest.mark.parametrize(
    ("agent", "change", "words"),
    [
        (on(fingerprint="0" * 12), {}, f"another device or system .*{'f' * 12}, this one's is {'0' * 12}"),
        (on(version="2.4.0"), {}, r"measured with ai-edge-litert 2\.3\.0, the device has 2\.4\.0"),
        (on(cores=(0,)), {}, r"measured on cores None, the device's are \(0,\)"),
        (on(), {"certificate": None}, "no certificate"),
        (on(), "failing", "fails its own certificate: only"),
        (on(), "few", "back a coverage of up to 80%"),
    ],
)
def test_what_backs_no_promise_predicts_all_the_same(agent: Agent, change: Any, words: str) -> None:
    table = certified(IDENTITY, 80.0)
    assert table.certificate is not None
    if change == "failing":
        change = {"certificate": dataclasses.replace(table.certificate, networks=table.certificate.intervals)}
    elif change == "few":
        change = {"certificate": dataclasses.replace(table.certificate, intervals=table.certificate.intervals[:4])}
    found = promise.promise(dataclasses.replace(table, **change), SMALL, agent)
    assert (found.predicted_ms, found.highest_ms) == (pytest.approx(0.08), None)
    assert found.gap is not None
    assert re.search(words, found.gap)


def test_a_table_that_lacks_layers_predicts_nothing() -> None:
    table = certified(IDENTITY, 80.0)
    other = Architecture.parse("input_8x8x1 conv_k3_s2_c9_relu6 head_c16_relu6 dense_n10")
    found = promise.promise(table, other, on())
    assert (found.predicted_ms, found.highest_ms) == (None, None)
    assert found.gap is not None and "lacks" in found.gap
    assert promise.promise(None, SMALL, on()) == Promise(None, None, "no latency table was given")


@pytest.mark.parametrize(("predicted_us", "promised"), [(0.04 / 1.6 * 1000, "kept"), (0.04 * 0.5 * 1000, "broken")])
def test_what_was_measured_is_held_to_what_is_promised(
    local: Device, inside: Inside, bundle: Bundle, table_of: TableOf, predicted_us: float, promised: str
) -> None:
    """It takes 40 us: more than the first table predicts, but not more than it promises."""
    shipped = ship(bundle, local, "digits", table=table_of(local, predicted_us), dry_run=True)
    assert (shipped.promise, shipped.promise_kept) == (promised, promised == "kept")
    assert shipped.normalised_ms == pytest.approx(0.04) and shipped.normalised_ms > predicted_us / 1000


def test_without_a_table_the_bundles_own_prediction_is_told(
    local: Device, inside: Inside, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    predicted = dataclasses.replace(bundle.manifest.predicted, latency_ms=0.07)
    shipped = ship(rewritten(bundle, tmp_path, predicted=predicted), local, "digits", dry_run=True)
    assert (shipped.predicted_ms, shipped.promise) == (0.07, "unbacked")


def test_times_that_no_clock_gives_are_refused(local: Device, inside: Inside, bundle: Bundle) -> None:
    inside.model_us = -1.0
    with pytest.raises(DeviceError, match=r"times or sizes that cannot be; nothing was kept\. Nothing was put live"):
        ship(bundle, local, "digits")
