"""The profiler's own work, on devices whose times follow a formula."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from edgenas.architecture import Architecture, Layer
from edgenas.device import Device
from edgenas.errors import CheckFailedError, DeviceError
from edgenas.latency.profiling import adopting, profiler
from edgenas.latency.profiling.planning import Plan, plan_profile
from edgenas.latency.profiling.profiler import EMPTY, Subject, profile, table_name
from edgenas.latency.table import LatencyTable
from edgenas.ledger import Ledger
from tests.latency import scripted
from tests.latency.scripted import HALF_WIDTH, SPACE, Hands, Lab, layer_us, true_us


def measure(devices: Device | list[Device], plan: Plan) -> LatencyTable:
    return profile(devices, SPACE, "int8", plan=plan)


def kept() -> set[str]:
    """What a session that was broken off has kept."""
    (path,) = Path(".edgenas/profiles").glob("*/measured.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["key"] for row in rows if row["event"] == "batch" for line in row["lines"]}


def test_the_table_holds_what_the_device_takes(lab: Lab, plan: Plan):
    table = measure(lab.device("a"), plan)
    assert (table.source, table.identity.device, table.identity.cpu) == ("measured", "a", "made up")
    assert table.reference == (str(plan.reference), pytest.approx(true_us(plan.reference)))
    assert table.empty_us == pytest.approx(scripted.EMPTY_US)
    assert set(table.entries) == set(plan.layers)
    for layer, entry in table.entries.items():
        assert entry.us == pytest.approx(layer_us(layer), abs=1e-4), "the empty model's time is taken off"
        assert entry.half_width == pytest.approx(HALF_WIDTH * true_us(layer) / layer_us(layer), abs=1e-4)
        assert entry.cold_us == pytest.approx(2 * layer_us(layer), abs=1e-3)
        assert entry.resident_kb == pytest.approx(layer.parameters / 1024)
    assert table.certificate is not None and table.doubt is None
    assert [n.notation for n in table.certificate.networks] == list(map(str, plan.certificate))
    assert [n.notation for n in table.certificate.intervals] == list(map(str, plan.intervals))
    summary = table.certificate_summary()
    assert summary is not None and summary["mape"] < 0.002 and summary["noise_floor"] == 0
    assert [n.notation for n in table.calibration.networks] == list(map(str, plan.calibration))
    (path,) = Path("latency_tables").iterdir()
    assert path.stem == table_name(lab.benches["a"].device, SPACE, "int8", 1) == "a-tiny-28x28x1-int8-t1"
    assert LatencyTable.load(path) == table
    assert not list(Path(".edgenas/profiles").iterdir()), "nothing is left of a session that has ended"


def test_what_it_cost_is_in_the_table_and_in_the_ledger(lab: Lab, plan: Plan):
    table = measure(lab.device("a"), plan)
    batches = lab.benches["a"].asked
    told = {
        "sessions": 1, "visits": sum(map(len, batches)), "interrupted": 2 * len(batches), "drifted": len(batches),
        "device_busy_s": float(len(batches)), "unsettled": 0, "adopted": 0, "adopted_from": None, "devices": ["a"],
        "left_out": {}, "space": "tiny", "input": "28x28x1",
    }  # fmt: skip
    assert table.provenance.items() >= told.items()
    (entry,) = Ledger(Path(".edgenas/ledger.jsonl")).entries("profiled")
    assert entry.items() >= (told | {"table": "a-tiny-28x28x1-int8-t1"}).items()


def test_networks_are_measured_at_the_beginning_and_again_at_the_end(lab: Lab, plan: Plan):
    def later(subject: Subject, before: int) -> float:
        return 1.04 if isinstance(subject, Architecture) and before else 1.0

    table = measure(lab.device("a", factor=later), plan)
    assert table.certificate is not None
    for network in (*table.certificate.networks, *table.certificate.intervals, *table.calibration.networks):
        us = true_us(Architecture.parse(network.notation))
        assert (network.measured_ms, network.repeated_ms) == pytest.approx((us / 1000, 1.04 * us / 1000))
    order = [each for batch in lab.benches["a"].asked for each in batch if each != EMPTY]
    assert order == [*plan.networks, *plan.layers, *plan.networks]


def test_a_layer_that_the_runtime_folds_away_costs_next_to_nothing(lab: Lab, plan: Plan):
    folded = plan.layers[0]
    table = measure(lab.device("a", factor=lambda subject, before: 0.1 if subject == folded else 1.0), plan)
    assert table.entries[folded].us == profiler.LEAST_US


def test_it_goes_on_where_it_was_and_measures_nothing_twice(lab: Lab, plan: Plan):
    with pytest.raises(DeviceError, match="the link broke"):
        measure(lab.device("a", batches=11), plan)
    before = lab.benches["a"].layers()
    assert before and set(map(str, before)) <= kept()
    table = measure(lab.device("a"), plan)
    assert table.provenance["sessions"] == 2
    assert sorted(map(str, before + lab.benches["a"].layers())) == sorted(map(str, plan.layers))
    lab.device("b")
    assert table.entries == measure(lab.benches["b"].device, plan).entries, "as if nothing had happened"


@pytest.mark.parametrize("change", ["reference", "runtime"])
def test_what_was_measured_otherwise_is_not_gone_on_with(lab: Lab, plan: Plan, change: str):
    with pytest.raises(DeviceError, match="the link broke"):
        measure(lab.device("a", batches=11), plan)
    if change == "reference":
        plan, device = dataclasses.replace(plan, reference=plan.networks[3]), lab.device("a")
    else:
        device = lab.device("a", runtime_version="2.4.0")
    table = measure(device, plan)
    assert table.provenance["sessions"] == 1
    assert len(lab.benches["a"].layers()) == len(plan.layers)


def test_a_layer_that_does_not_run_is_named_and_the_others_are_kept(lab: Lab, plan: Plan):
    bad = plan.layers[3]
    with pytest.raises(CheckFailedError) as caught:
        measure(lab.device("a", fails={bad}), plan)
    assert str(caught.value) == f"{bad} does not run on the device: invalid model."
    assert {str(layer) for layer in plan.layers[:8] if layer != bad} <= kept()
    assert str(bad) not in kept()
    table = measure(lab.device("a"), plan)
    assert table.provenance["sessions"] == 2 and bad in table.entries
    lab.device("b", fails=set(plan.layers[:5]))
    with pytest.raises(CheckFailedError, match=r"invalid model\. Nor do 2 others"):
        measure(lab.benches["b"].device, plan)
    with pytest.raises(CheckFailedError, match="The empty model does not run on the device: invalid model"):
        measure(lab.device("c", fails={EMPTY}), plan)


# What another table knows


@pytest.fixture
def earlier(lab: Lab, plan: Plan) -> LatencyTable:
    """A table of the same device under another name."""
    table = measure(lab.device("a"), plan)
    (own,) = Path("latency_tables").iterdir()
    own.rename("latency_tables/earlier.json")
    lab.device("a")  # what it was asked is forgotten
    return table


@pytest.fixture
def other(plan: Plan) -> Plan:
    """The same with another reference."""
    return dataclasses.replace(plan, reference=plan.networks[3])


def test_what_another_table_knows_is_not_measured_again(lab: Lab, earlier: LatencyTable, other: Plan):
    lab.benches["a"].speed = 1.5
    table = measure(lab.benches["a"].device, other)
    told = {"adopted_from": "earlier", "adopted": len(other.layers) - adopting.PROBES}
    assert table.provenance.items() >= told.items()
    assert len(lab.benches["a"].layers()) == adopting.PROBES
    assert table.reference[0] == str(other.reference)
    for layer, entry in table.entries.items():  # at the speed of today
        assert entry.us == pytest.approx(1.5 * layer_us(layer), abs=1e-3)
        assert entry.cold_us == pytest.approx(3.0 * layer_us(layer), abs=1e-2)
        assert entry.resident_kb == pytest.approx(layer.parameters / 1024)
    assert table.doubt is None


def test_who_makes_a_table_again_wants_other_figures(lab: Lab, earlier: LatencyTable, plan: Plan):
    Path("latency_tables/earlier.json").rename("latency_tables/a-tiny-28x28x1-int8-t1.json")
    assert measure(lab.benches["a"].device, plan).provenance["adopted"] == 0
    assert len(lab.benches["a"].layers()) == len(plan.layers)


@pytest.mark.parametrize(
    ("all_by", "odd", "odd_by", "adopts"),
    [(1.025, 0, 1.0, True), (1.035, 0, 1.0, False), (0.96, 0, 1.0, False), (1.0, 2, 1.3, True), (1.0, 4, 1.15, False)],
)
def test_a_table_whose_probes_have_moved_gives_nothing(
    lab: Lab, earlier: LatencyTable, other: Plan, all_by: float, odd: int, odd_by: float, adopts: bool
):
    """In the middle by more than 3%, or one of the twelve in four by more than 10%."""
    probed = 0

    def moved(subject: Subject, before: int) -> float:
        nonlocal probed
        if not isinstance(subject, Layer) or subject == EMPTY:
            return 1.0
        probed += 1
        by = odd_by if probed <= odd else all_by
        return 1 + (by - 1) * layer_us(subject) / true_us(subject)  # the empty model's time is what it was

    lab.benches["a"].factor = moved
    adopted = measure(lab.benches["a"].device, other).provenance["adopted"]
    assert adopted == (len(other.layers) - adopting.PROBES if adopts else 0)


def test_a_table_that_fails_its_certificate_or_is_of_another_device_gives_nothing(
    lab: Lab, earlier: LatencyTable, other: Plan
):
    assert earlier.certificate is not None
    wrong = tuple(dataclasses.replace(n, predicted_ms=2 * n.predicted_ms) for n in earlier.certificate.networks)
    doubtful = dataclasses.replace(earlier, certificate=dataclasses.replace(earlier.certificate, networks=wrong))
    doubtful.save(Path("latency_tables/earlier.json"))
    assert measure(lab.device("a"), other).provenance["adopted"] == 0
    Path("latency_tables/a-tiny-28x28x1-int8-t1.json").unlink()
    earlier.save(Path("latency_tables/earlier.json"))
    assert measure(lab.device("a", runtime_version="2.4.0"), other).provenance["adopted"] == 0


# Several devices


def test_siblings_share_the_work_and_each_gets_the_table(lab: Lab, plan: Plan):
    devices = [lab.device("a"), lab.device("b", factor=lambda s, before: 1.02 if isinstance(s, Architecture) else 1.0)]
    table = measure(devices, plan)
    assert table.provenance["devices"] == ["a", "b"]
    assert all(len(bench.asked) > 5 for bench in lab.benches.values())
    assert sorted(str(x) for b in lab.benches.values() for x in b.layers()) == sorted(map(str, plan.layers))
    for network in table.calibration.networks:  # which both have measured
        us = true_us(Architecture.parse(network.notation))
        assert network.measured_ms == pytest.approx(1.01 * us / 1000)
    for device in devices:
        own = LatencyTable.load(table_name(device, SPACE, "int8", 1))
        assert (own.identity.device, own.entries) == (device.name, table.entries)
    assert len(list(Path("latency_tables").iterdir())) == 2


def test_what_a_sibling_that_dies_had_in_hand_goes_to_the_others(lab: Lab, plan: Plan):
    table = measure([lab.device("a"), lab.device("b", batches=1)], plan)
    assert table.provenance["devices"] == ["a"]
    assert table.provenance["left_out"] == {"b": "b: the link broke."}
    assert set(table.entries) == set(plan.layers)
    assert not Path("latency_tables/b-tiny-28x28x1-int8-t1.json").exists()


def test_the_last_sibling_that_dies_ends_it(lab: Lab, plan: Plan):
    with pytest.raises(DeviceError, match=r"^[ab]: the link broke"):
        measure([lab.device("a", batches=1), lab.device("b", batches=1)], plan)
    with pytest.raises(DeviceError, match=r"c: the link broke\.; d: the link broke"):
        measure([lab.device("c", batches=0), lab.device("d", batches=0)], plan)


def test_who_does_not_behave_like_its_siblings_is_left_out(lab: Lab, plan: Plan):
    """Two against one, though that one comes first; one of another kind, and one that is not there."""

    def slow(subject: Subject, before: int) -> float:
        return 1.3 if isinstance(subject, Architecture) and "k7" in str(subject) else 1.0

    devices = [
        lab.device("odd", factor=slow), lab.device("a"), lab.device("gone", reachable=False),
        lab.device("kept", cores=(0,)), lab.device("other", cpu="another"), lab.device("c"),
    ]  # fmt: skip
    table = measure(devices, plan)
    assert table.provenance["devices"] == ["a", "c"]
    left_out = table.provenance["left_out"]
    assert set(left_out) == {"odd", "gone", "kept", "other"}
    assert left_out["odd"].startswith("odd does not behave like a: relative to the reference model the same")
    assert left_out["gone"] == "gone cannot be reached."
    assert "another kind of device than odd (cores: unknown became (0,))" in left_out["kept"]
    assert "another kind of device than odd (cpu: made up became another)" in left_out["other"]
    assert sorted(path.stem[0] for path in Path("latency_tables").iterdir()) == ["a", "c"]
    for layer, entry in table.entries.items():
        assert entry.us == pytest.approx(layer_us(layer), abs=1e-4)


@pytest.mark.parametrize(("all_by", "some_by", "stays"), [(1.04, 1.0, True), (1.06, 1.0, False), (1.0, 1.09, False)])
def test_how_far_siblings_may_differ(lab: Lab, plan: Plan, all_by: float, some_by: float, stays: bool):
    """In the middle by 5%, three in four by 8%."""
    some = set(plan.networks[::3])

    def factor(subject: Subject, before: int) -> float:
        return (all_by * (some_by if subject in some else 1.0)) if isinstance(subject, Architecture) else 1.0

    table = measure([lab.device("a"), lab.device("b", factor=factor)], plan)
    assert table.provenance["devices"] == (["a", "b"] if stays else ["a"])


def test_nobody_is_there(lab: Lab, plan: Plan):
    with pytest.raises(DeviceError, match=r"a cannot be reached\. b cannot be reached"):
        measure([lab.device("a", reachable=False), lab.device("b", reachable=False)], plan)


@pytest.mark.parametrize("shares_host", [False, True])
def test_a_device_on_the_host_s_cores_is_measured_only_while_nothing_else_goes_on(
    lab: Lab, plan: Plan, monkeypatch: pytest.MonkeyPatch, shares_host: bool
):
    monkeypatch.setattr(profiler, "ThreadPoolExecutor", Hands)
    monkeypatch.setattr(profiler, "wait", Hands.wait)
    monkeypatch.setattr(Hands, "most", 0)
    measure([lab.device("a", shares_host=shares_host), lab.device("b", shares_host=shares_host)], plan)
    assert Hands.most == (1 if shares_host else 2)
    after_probes = lab.did[3:]
    ahead = [one == two == "convert" for one, two in itertools.pairwise(after_probes)]
    assert any(ahead) is not shares_host, "the next batches are converted meanwhile, but beside no such device"


def test_a_plan_tells_layers_from_networks_and_keeps_the_sets_apart():
    plan = plan_profile(SPACE)
    assert set(SPACE.layers()) <= set(plan.layers)
    assert len(set(plan.networks)) == len(plan.networks) == 150
    assert plan_profile(SPACE) == plan
