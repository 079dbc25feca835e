"""Trainings side by side, in real processes that train nothing: see `stand_ins.call`."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from edgenas.evaluation import workers
from edgenas.evaluation.training import TrainingError
from edgenas.evaluation.workers import Died, InThisProcess, Outcome, Processes
from tests.evaluation import stand_ins
from tests.waiting import until

Word = tuple[str, int, int]


class Runs:
    """Two processes on a machine of four cores.

    Attributes:
        file: what some calls wait for.
        words: what was told.
    """

    def __init__(self, count: int, file: Path) -> None:
        self.processes = Processes(count)
        self.file = file
        self.words: list[Word] = []

    def __call__(self, *calls: str, told: Callable[[str, int, int], None] | None = None) -> Iterator[Outcome]:
        said = told or (lambda *word: self.words.append(word))
        return self.processes.run(stand_ins.call, [(each, self.file) for each in calls], said)


@pytest.fixture
def make_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Runs]]:
    monkeypatch.setattr(workers, "_start", stand_ins.start)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    made: list[Runs] = []

    def make(count: int) -> Runs:
        made.append(Runs(count, tmp_path / "file"))
        return made[-1]

    yield make
    for runs in made:
        runs.processes.close()


@pytest.fixture
def two(make_runs: Callable[[int], Runs]) -> Runs:
    return make_runs(2)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_outcomes_are_in_order_whichever_ends_first(two: Runs) -> None:
    """The first one waits for what the third does, so two are at work at any time; no third process is started."""
    outcomes = list(two("waits", "second", "opens", "fourth"))
    assert [outcome.value[0] for outcome in outcomes] == ["waits", "second", "opens", "fourth"]
    assert all(outcome.failure is None and outcome.seconds >= 0 for outcome in outcomes)
    first, second, third, _ = (outcome.value[1] for outcome in outcomes)
    assert first != second == third
    assert {outcome.value[2] for outcome in outcomes} == {2}, "the cores are shared out as threads"
    assert {outcome.value[1] for outcome in two("again", "again")} <= {first, second}, "processes live on"


def test_a_process_that_dies_loses_its_own_call_alone(two: Runs) -> None:
    """It is replaced; so is one whose answer cannot be read."""
    waits, died, odd, opens = two("waits", "dies", "raises oddly", "opens")
    assert isinstance(died.failure, Died) and isinstance(odd.failure, Died)
    assert str(died.failure) == "its process died (killed, or out of memory)" and died.value is None
    assert (waits.failure, opens.failure) == (None, None)
    assert waits.value[1] != opens.value[1]


def test_one_that_died_while_it_had_nothing_to_do_is_replaced(make_runs: Callable[[int], Runs]) -> None:
    one = make_runs(1)
    (before,) = one("first")
    (idle,) = one.processes._idle
    os.kill(before.value[1], signal.SIGKILL)
    until(lambda: idle._pool._broken, "its pool knows")
    (after,) = one("second")
    assert after.failure is None and after.value[1] != before.value[1]


def test_what_a_call_raises_is_its_outcome_and_its_process_lives_on(make_runs: Callable[[int], Runs]) -> None:
    first, failed, last = make_runs(1)("first", "raises", "last")
    assert (failed.value, str(failed.failure)) == (None, "its loss is nan")
    assert isinstance(failed.failure, TrainingError)
    assert first.value[1] == last.value[1]


def test_words_are_heard_while_the_call_is_at_work(make_runs: Callable[[int], Runs]) -> None:
    """The call ends only once its first word was heard; its last one is heard before its outcome."""
    runs, heard = make_runs(1), list[Word]()

    def told(what: str, done: int, most: int) -> None:
        heard.append((what, done, most))
        runs.file.touch()

    (outcome,) = runs("tells", told=told)
    assert outcome.failure is None
    assert heard == [("a fold", 100, 300), ("a fold", 200, 300)]


@pytest.mark.parametrize("how", ["closed", "another run"])
def test_what_is_under_way_ends_when_nobody_wants_it_any_more(two: Runs, how: str) -> None:
    """The first outcome is there while the second call is at work."""
    running = two("first", "hangs")
    first = next(running)
    until(two.file.exists)
    hanging = int(two.file.read_text())
    if how == "closed":
        two.processes.close()
        until(lambda: gone(first.value[1]), "the idle process ended")
        two.processes.close()  # twice does no harm
    else:
        assert [outcome.value[0] for outcome in two("another", "run")] == ["another", "run"]
    until(lambda: gone(hanging), "the process that hung ended")


@pytest.mark.parametrize(
    ("cores", "asked", "count", "threads"),
    [(1, None, 1, 1), (None, None, 1, 1), (2, None, 2, 1), (4, None, 4, 1), (16, None, 4, 4), (7, None, 4, 1),
     (8, 3, 3, 2), (8, 1, 1, 8), (2, 5, 2, 1)],
)  # fmt: skip
def test_cores_are_shared_by_the_processes(
    cores: int | None, asked: int | None, count: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    made = Processes(asked)
    assert (made.count, made._threads) == (count, threads)


def test_a_worker_gets_tensorflow_with_its_threads_and_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    monkeypatch.setattr(workers, "end_with_parent", lambda: done.append("watches"))
    monkeypatch.setattr(workers, "prepare_tensorflow", done.append)
    monkeypatch.setattr(workers, "_said", None)
    workers._start("said", 3)
    assert (done, workers._said) == (["watches", 3], "said")


def test_here_one_call_follows_the_other_when_its_outcome_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, words, clock = InThisProcess(), list[Word](), iter([10.0, 12.5, 20.0, 20.0004, 30.0])
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    (tmp_path / "file").touch()
    calls = [(what, tmp_path / "file") for what in ("first", "tells", "raises")]
    running = here.run(stand_ins.call, calls, lambda *word: words.append(word))
    assert here.count == 1
    assert next(running) == Outcome(("first", os.getpid(), 0), None, 2.5)
    assert words == []
    assert next(running).seconds == 0.0
    assert words == [("a fold", 100, 300), ("a fold", 200, 300)]
    with pytest.raises(TrainingError, match="its loss is nan"):
        next(running)
    here.close()


SCRIPT = """
from pathlib import Path
from edgenas.evaluation import workers
from tests.evaluation import stand_ins

if __name__ == "__main__":
    workers._start = stand_ins.start
    made = workers.Processes(2)
    try:
        list(made.run(stand_ins.call, [("hangs", Path("one")), ("hangs", Path("other"))], lambda *_: None))
    finally:
        made.close()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_when_their_search_is_ended(tmp_path: Path, how: signal.Signals) -> None:
    (tmp_path / "search.py").write_text(SCRIPT)
    search = subprocess.Popen([sys.executable, "search.py"], cwd=tmp_path, stderr=subprocess.PIPE)
    files = [tmp_path / "one", tmp_path / "other"]
    until(lambda: all(map(Path.exists, files)), "both are at work")
    at_work = [int(file.read_text()) for file in files]
    assert {search.pid} == {psutil.Process(pid).ppid() for pid in at_work}
    search.send_signal(how)
    search.communicate()
    until(lambda: all(map(gone, at_work)), "the workers ended")
