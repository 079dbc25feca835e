"""The rounds of the agent, with models whose times are scripted: each gate that makes a table honest."""

import functools
import os
from typing import Any

import pytest

from edgenas.device.agent import rounds
from edgenas.device.agent.children import Died
from edgenas.device.agent.context import OperationError
from edgenas.device.agent.rounds import _Rounds, measure
from tests.device.scripted import Collector, Machine, Visited

SETTLED = [100.0] * rounds._SETTLING  # of the reference, before the first round


@pytest.fixture(autouse=True)
def collector(monkeypatch: pytest.MonkeyPatch) -> Collector:
    collector = Collector()
    monkeypatch.setattr(rounds, "gc", collector)
    return collector


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A clock that stands still unless a test moves it."""
    machine = Machine()
    monkeypatch.setattr(rounds, "machine", machine)
    return machine


def run(
    reference: Visited,
    loaded: dict[int, Visited],
    visits: int = 3,
    expected: float | None = 100.0,
    seed: int = 0,
    busy: bool = False,
) -> _Rounds:
    plan = {"seed": seed, "visits": visits, "expected_us": expected, "busy": busy}
    done = _Rounds(plan, reference, loaded)  # type: ignore[arg-type]
    done.run(lambda **_: None)
    return done


def test_a_quiet_device_keeps_every_visit():
    done = run(Visited(100.0), {0: Visited(10.0), 1: Visited(40.0)})
    assert done.kept == {0: [(10.0, 30.0, 100.0)] * 3, 1: [(40.0, 120.0, 100.0)] * 3}
    assert (done.visits, done.interrupted, done.drifted) == (6, 0, 0)
    assert done.reference_us == [100.0] * 6, "before and after the models of each round"


def test_around_is_the_mean_of_the_reference_before_and_after():
    done = run(Visited(*SETTLED, 100.0, 108.0, 104.0), {0: Visited(10.0)}, visits=1)
    assert done.kept[0] == [(10.0, 30.0, 104.0)]


@pytest.mark.parametrize(("before", "after"), [(100.0, 110.1), (110.1, 100.0)])
def test_a_reference_that_moved_by_more_than_a_tenth_spoils_what_is_between(before: float, after: float):
    loaded = {0: Visited(10.0, 20.0), 1: Visited((90.0, True), 40.0)}
    done = run(Visited(*SETTLED, before, after, 105.0), loaded, visits=1)
    assert (done.visits, done.drifted, done.interrupted) == (4, 1, 1), "each visit is counted once"
    assert done.kept[0] == [(20.0, 60.0, 105.0)], "10 was beside the reference that moved"
    done = run(Visited(*SETTLED, min(before, after), 109.9), {0: Visited(10.0)}, visits=1)
    assert (done.visits, done.drifted) == (1, 0), "a tenth is calm"


@pytest.mark.parametrize(("us", "kept"), [(149.9, 1), (150.1, 0)])
def test_a_device_half_as_slow_again_as_expected_is_not_measured(us: float, kept: int):
    """It may be throttled all the time: the reference does not move, and is too slow."""
    done = run(Visited(us), {0: Visited(10.0)}, visits=1)
    assert (len(done.kept[0]), done.drifted) == (kept, 0 if kept else 3)


def test_without_an_earlier_figure_the_middle_of_the_settling_is_expected():
    settling = [1000.0] * 7 + [100.0] + [50.0] * 7
    assert len(settling) == rounds._SETTLING
    assert len(run(Visited(*settling, 149.0), {0: Visited(10.0)}, visits=1, expected=None).kept[0]) == 1
    assert run(Visited(*settling, 151.0), {0: Visited(10.0)}, visits=1, expected=None).kept[0] == []


def test_a_visit_that_lost_its_core_is_dropped_and_its_neighbours_are_kept():
    done = run(Visited(100.0), {0: Visited((90.0, True), 10.0), 1: Visited(40.0)}, visits=1)
    assert done.kept == {0: [(10.0, 30.0, 100.0)], 1: [(40.0, 120.0, 100.0)]}
    assert (done.visits, done.interrupted, done.drifted) == (3, 1, 0)


def test_the_reference_after_a_group_is_the_one_before_the_next():
    done = run(Visited(*SETTLED, 100.0, 104.0, 108.0), {index: Visited(10.0) for index in range(32)}, visits=1)
    assert sorted(around for ((_, _, around),) in done.kept.values()) == [102.0] * 16 + [106.0] * 16
    lost = Visited(*SETTLED, 100.0, (100.0, True), 100.0)
    done = run(lost, {index: Visited(77.0, 10.0) for index in range(32)}, visits=1)
    assert (done.visits, done.drifted) == (64, 32), "it spoils both of them"


@pytest.mark.parametrize("lost", [[(100.0, True), 100.0], [100.0, (100.0, True)]], ids=["before", "after"])
def test_a_reference_that_lost_its_core_spoils_its_neighbours(lost: list[Any]):
    done = run(Visited(*SETTLED, *lost, 100.0), {0: Visited(77.0, 10.0)}, visits=1)
    assert (done.visits, done.drifted, done.kept[0]) == (2, 1, [(10.0, 30.0, 100.0)])


@pytest.mark.parametrize(
    ("seconds", "interruptions", "whole"),
    [(0.0, 2, True), (0.0, 3, False), (0.125, 5, True), (0.125, 6, False)],
    ids=["two in no time", "three in no time", "40 a second", "more"],
)
def test_a_round_with_many_interruptions_is_dropped_whole(
    machine: Machine, seconds: float, interruptions: int, whole: bool
):
    def wait() -> None:
        machine.us += seconds * 1e6

    loaded = {index: Visited((90.0, True), 10.0) for index in range(interruptions)}
    done = run(Visited(100.0), loaded | {99: Visited(77.0, 40.0, visited=wait)}, visits=1)
    assert done.kept[99] == ([(77.0, 231.0, 100.0)] if whole else [(40.0, 120.0, 100.0)])
    assert (done.interrupted, done.drifted) == (interruptions, 0 if whole else 1)


def test_a_reference_that_lost_its_core_counts_as_an_interruption():
    loaded = {index: Visited(*([(90.0, True)] if index < 2 else []), 10.0) for index in range(33)}
    done = run(Visited(*SETTLED, *[100.0] * 3, (100.0, True), 100.0), loaded, visits=1)
    assert (done.visits, done.interrupted) == (66, 2)
    assert done.drifted == 31, "two models and the reference: what was calm in that round is dropped too"


# On a device that is busy all the time


@pytest.mark.parametrize(("before", "after"), [(100.0, 150.0), (150.0, 100.0)])
def test_busy_a_reference_may_move_by_half(before: float, after: float):
    done = run(Visited(*SETTLED, before, after), {0: Visited(10.0)}, visits=1, busy=True)
    assert (done.kept[0], done.visits, done.drifted) == ([(10.0, 30.0, 125.0)], 1, 0)
    more = [reference * 1.01 if reference > 100 else reference for reference in (before, after)]
    done = run(Visited(*SETTLED, *more, 100.0), {0: Visited(77.0, 10.0)}, visits=1, busy=True)
    assert (done.kept[0], done.visits, done.drifted) == ([(10.0, 30.0, 100.0)], 2, 1)


def test_busy_a_device_that_is_slower_than_expected_is_measured():
    done = run(Visited(900.0), {0: Visited(10.0)}, visits=1, busy=True)
    assert (done.kept[0], done.drifted) == ([(10.0, 30.0, 900.0)], 0)


@pytest.mark.parametrize(("busy", "rounds_tried"), [(False, 3), (True, 12)])
def test_busy_more_rounds_are_tried_for_a_visit(busy: bool, rounds_tried: int):
    done = run(Visited(100.0), {0: Visited((90.0, True))}, visits=1, busy=busy)
    assert (done.kept[0], done.visits) == ([], rounds_tried)


def test_busy_a_visit_that_lost_its_core_is_dropped():
    done = run(Visited(100.0), {0: Visited((90.0, True), 10.0), 1: Visited(40.0)}, visits=1, busy=True)
    assert done.kept == {0: [(10.0, 30.0, 100.0)], 1: [(40.0, 120.0, 100.0)]}
    assert (done.visits, done.interrupted, done.drifted) == (3, 1, 0)


@pytest.mark.parametrize("lost", [[(100.0, True), 100.0], [100.0, (100.0, True)]], ids=["before", "after"])
def test_busy_a_reference_that_lost_its_core_spoils_its_neighbours(lost: list[Any]):
    done = run(Visited(*SETTLED, *lost, 100.0), {0: Visited(77.0, 10.0)}, visits=1, busy=True)
    assert (done.visits, done.drifted, done.kept[0]) == (2, 1, [(10.0, 30.0, 100.0)])


def test_busy_a_round_with_many_interruptions_is_kept():
    loaded = {index: Visited((90.0, True), 10.0) for index in range(15)} | {99: Visited(77.0, 40.0)}
    done = run(Visited(100.0), loaded, visits=1, busy=True)
    assert done.kept[99] == [(77.0, 231.0, 100.0)]
    assert (done.interrupted, done.drifted) == (15, 0)


# The order of it all


def test_the_reference_is_visited_before_and_after_every_sixteen_models():
    visits: list[str] = []
    reference = Visited(100.0, visited=lambda: visits.append("reference"))
    loaded = {index: Visited(10.0, visited=lambda: visits.append("model")) for index in range(33)}
    done = run(reference, loaded, visits=1)
    one = "reference"
    settled = visits[len(SETTLED) :]
    assert visits[: len(SETTLED)] == [one] * len(SETTLED)
    assert settled == [one, *["model"] * 16, one, *["model"] * 16, one, "model", one]
    assert len(done.reference_us) == 4


def _orders(seed: int) -> list[tuple[int, ...]]:
    visits: list[int] = []
    loaded = {index: Visited(10.0, visited=functools.partial(visits.append, index)) for index in range(8)}
    run(Visited(100.0), loaded, visits=3, seed=seed)
    return [tuple(visits[start : start + 8]) for start in (0, 8, 16)]


def test_the_order_is_another_each_round_and_the_seed_s():
    orders = _orders(seed=3)
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({*orders, tuple(range(8))}) == 4
    assert _orders(seed=3) == orders
    assert _orders(seed=4) != orders


def test_no_garbage_is_collected_meanwhile(collector: Collector):
    did = collector.did
    run(Visited(100.0, visited=lambda: did.append("visit")), {})
    assert did == ["collect", "disable", *["visit"] * len(SETTLED)]


def test_a_slow_model_needs_half_the_visits():
    done = run(Visited(100.0), {0: Visited(5001.0), 1: Visited(4999.0)}, visits=5)
    assert [len(done.kept[index]) for index in (0, 1)] == [3, 5]


def test_rounds_end_and_are_told():
    told: list[dict[str, int]] = []
    loaded = {0: Visited((90.0, True)), 1: Visited(10.0)}
    done = _Rounds({"seed": 0, "visits": 2, "expected_us": 100.0}, Visited(100.0), loaded)  # type: ignore[arg-type]
    done.run(lambda **line: told.append(line))
    assert (done.kept[0], done.visits) == ([], 8), "three rounds for each visit that was wanted, and no more"
    left = [2, 2, 1, 1, 1, 1]
    assert told == [{"round": number + 1, "left": left[number], "models": 2} for number in range(6)]


def test_a_reference_alone_is_settled():
    assert run(Visited(*range(1, 16), 100.0), {}).reference_us == list(range(1, 16))


class Bench:
    """`measure` with scripted models; in the place of a child it runs here, or dies as `dies` says of its batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dies: Any = lambda batch: None) -> None:
        self.dies = dies
        self.batches: list[list[str]] = []
        self.memory_kb = self._left_kb = 1 << 30
        self.settings: list[tuple[Any, ...]] = []
        monkeypatch.setattr(rounds, "import_runtime", lambda context, runtime: None)
        monkeypatch.setattr(rounds, "bind", lambda cores: self.settings.append(("bind", cores)))
        monkeypatch.setattr(rounds, "memory_kb", lambda: (1 << 30, self._left_kb))
        monkeypatch.setattr(rounds, "Model", self._load)
        monkeypatch.setattr(rounds, "in_child", self._child)
        monkeypatch.setattr(os, "cpu_count", lambda: 4)

    def _child(
        self, stdin: Any, work: Any, plan: dict[str, Any], batch: list[int], progress: Any = None, **_: Any
    ) -> Any:
        self._left_kb = self.memory_kb
        self.batches.append([plan["models"][index] for index in batch])
        if (reason := self.dies([plan["reference"], *self.batches[-1]])) is not None:
            raise Died(reason, False)
        try:
            return work(progress or (lambda **_: None), plan, batch)
        except ValueError as error:
            raise RuntimeError(str(error)) from None

    def _load(self, runtime: str, path: str, threads: int, seed: int) -> Visited:
        if path == "bad":
            raise ValueError("not a model")
        self.settings.append((runtime, path, threads, seed))
        model = Visited(100.0 if path == "reference" else 10.0 * len(path))
        model.warm_up = lambda us: self.settings.append((path, us))  # type: ignore[attr-defined]
        self._left_kb = max(1, self._left_kb - 100_000)
        return model

    def measure(self, *models: str, visits: int = 1, reference: str = "reference", **more: Any) -> dict[str, Any]:
        class Nobody:
            stdin = None
            progress = staticmethod(lambda **_: None)

        return measure(Nobody, [*models], reference, visits, **more)  # type: ignore[arg-type]


def test_what_is_measured_comes_back_by_model(monkeypatch: pytest.MonkeyPatch):
    bench = Bench(monkeypatch)
    answer = bench.measure("a", "bad", "bb", visits=2, threads=4, runtime="r", cores=[1], seed=7)
    common = {"first_us": 1.0, "load_us": 2.0, "resident_kb": 3, "repeats": 4, "around_us": [100.0] * 2}
    assert answer["models"] == [
        common | {"visits_us": [10.0] * 2, "cold_us": [30.0] * 2}, None,
        common | {"visits_us": [20.0] * 2, "cold_us": [60.0] * 2},
    ]  # fmt: skip
    assert answer["failed"] == {1: "invalid model: not a model"}
    assert (answer["visits"], answer["interrupted"], answer["drifted"]) == (4, 0, 0)
    assert answer["reference_us"] == [100.0] * 4
    assert bench.settings == [
        ("bind", [1]), ("r", "reference", 4, 7), ("reference", 1000), ("r", "a", 4, 7), ("a", 200),
        ("r", "bb", 4, 9), ("bb", 200),
    ]  # fmt: skip


@pytest.mark.parametrize(("busy", "kept"), [({}, 0), ({"busy": False}, 0), ({"busy": True}, 2)])
def test_what_is_asked_for_reaches_the_rounds(monkeypatch: pytest.MonkeyPatch, busy: dict[str, bool], kept: int):
    answer = Bench(monkeypatch).measure("a", visits=2, expected_us=10.0, **busy)  # the reference takes 100
    assert len(answer["models"][0]["visits_us"]) == kept


def test_what_does_not_fit_in_memory_is_measured_after(monkeypatch: pytest.MonkeyPatch):
    bench = Bench(monkeypatch)
    bench.memory_kb = 300_000 + 64 * 1024 - 1  # for the reference and two models, with what is left free
    answer = bench.measure("a", "b", "c", "d", "e")
    assert bench.batches == [["a", "b", "c", "d", "e"], ["c", "d", "e"], ["e"]]
    assert [model["visits_us"] for model in answer["models"]] == [[10.0]] * 5
    assert answer["visits"] == 5
    bench.memory_kb, bench.batches = 1, []
    bench.measure("a", "b")
    assert bench.batches == [["a", "b"], ["b"]], "one at least, however little there is"


def test_a_model_that_the_others_left_no_memory_for_is_measured_after(monkeypatch: pytest.MonkeyPatch):
    """Where a process is held to its part; what fails alone has failed."""
    bench = Bench(monkeypatch)
    monkeypatch.setattr(rounds.bounding, "left_kb", lambda: 1 << 30)
    loaded: list[str] = []

    def load(runtime: str, path: str, threads: int, seed: int) -> Visited:
        if path == "reference":
            loaded.clear()
        elif path == "bad" or (path == "large" and loaded):
            raise MemoryError
        else:
            loaded.append(path)
        return really(runtime, path, threads, seed)

    really = bench._load
    monkeypatch.setattr(rounds, "Model", load)
    answer = bench.measure("a", "large", "b", "bad", "c")
    assert [model is None for model in answer["models"]] == [False, False, False, True, False]
    assert answer["failed"] == {3: "invalid model: "}
    assert bench.batches == [["a", "large", "b", "bad", "c"], ["large", "b", "bad", "c"], ["bad", "c"]]


def test_a_model_that_kills_its_process_is_found_by_halves(monkeypatch: pytest.MonkeyPatch):
    bench = Bench(monkeypatch, lambda batch: "killed by SIGSEGV" if "killer" in batch else None)
    answer = bench.measure("a", "b", "c", "killer", "d", "e", "f")
    assert answer["failed"] == {3: "killed by SIGSEGV"}
    assert [model is None for model in answer["models"]] == [False, False, False, True, False, False, False]
    assert bench.batches == [
        ["a", "b", "c", "killer", "d", "e", "f"], [],  # is it the reference?
        ["a", "b", "c"], ["killer", "d", "e", "f"], ["killer", "d"], ["killer"], ["d"], ["e", "f"],
    ]  # fmt: skip


def test_a_child_lost_by_accident_costs_no_model(monkeypatch: pytest.MonkeyPatch):
    deaths = iter(["killed by SIGKILL"])
    answer = Bench(monkeypatch, lambda batch: next(deaths, None)).measure("a", "b", "c")
    assert answer["failed"] == {}
    assert [model["visits_us"] for model in answer["models"]] == [[10.0]] * 3


@pytest.mark.parametrize("reference", ["bad", "killer"])
def test_a_reference_that_cannot_be_measured_is_named(monkeypatch: pytest.MonkeyPatch, reference: str):
    bench = Bench(monkeypatch, lambda batch: "killed by SIGILL" if "killer" in batch else None)
    with pytest.raises(OperationError, match="the reference model cannot be measured: ") as caught:
        bench.measure("a", reference=reference)
    assert caught.value.kind == "bad_reference"


def test_the_median_of_an_even_number_lies_between_the_two_in_the_middle() -> None:
    assert rounds._median([4.0, 1.0, 3.0, 2.0]) == 2.5
    assert rounds._median([3.0, 1.0, 2.0]) == 2.0
