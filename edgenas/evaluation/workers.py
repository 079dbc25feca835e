"""Processes that train, side by side: a training takes about one core, however many threads it has.

One that dies (a crash, out of memory) loses its own training only, and is replaced.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

from edgenas.evaluation.training import prepare_tensorflow
from edgenas.model import end_with_parent

MOST = 4  # each takes about 1 GB
_LISTEN_S = 0.5  # between two looks at what the processes tell

Told = Callable[[str, int, int], None]  # (what is trained, steps done, at most)


class Died(Exception):  # noqa: N818  it is no error of the training's
    """A process ended before its training did."""

    def __init__(self) -> None:
        super().__init__("its process died (killed, or out of memory)")


@dataclass(frozen=True)
class Outcome:
    """What became of a call.

    Attributes:
        value: what it gave; None where it failed.
        failure: what it raised, or `Died`.
        seconds: it took.
    """

    value: Any
    failure: Exception | None
    seconds: float


class Workers(Protocol):
    """Where trainings run.

    Attributes:
        count: how many at a time.
    """

    count: int

    def run(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], told: Told) -> Iterator[Outcome]:
        """The outcome of each call `function(*call, told)`, in order, each as soon as it and those before are there."""

    def close(self) -> None:
        """Let go of processes."""


class InThisProcess:
    """One training after the other, here."""

    count = 1

    def run(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], told: Told) -> Iterator[Outcome]:
        """See `Workers`; what a call raises is raised here."""
        for call in calls:
            begin = time.monotonic()
            value = function(*call, told)
            yield Outcome(value, None, round(time.monotonic() - begin, 3))

    def close(self) -> None:
        """There is nothing to let go of."""


class Processes:
    """Worker processes that live on from training to training, since importing TensorFlow takes seconds.

    Args:
        count: how many; None: as many as there are cores, and `MOST` at most.
    """

    def __init__(self, count: int | None = None) -> None:
        cores = os.cpu_count() or 1
        self.count = min(cores, MOST, count or MOST)
        self._threads = max(1, cores // self.count)
        self._idle: list[_Worker] = []
        self._busy: dict[Future[Any], tuple[int, _Worker]] = {}

    def run(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], told: Told) -> Iterator[Outcome]:
        """See `Workers`; what an earlier run was not asked for any more is ended."""
        self._end_busy()
        outcomes: dict[int, Outcome] = {}
        begun: dict[int, float] = {}
        for wanted in range(len(calls)):
            while wanted not in outcomes:
                while len(begun) < len(calls) and len(self._busy) < self.count:
                    number = len(begun)
                    begun[number] = time.monotonic()
                    future, worker = self._submit(function, calls[number])
                    self._busy[future] = number, worker
                done, _ = wait(self._busy, timeout=_LISTEN_S, return_when=FIRST_COMPLETED)
                for _, worker in self._busy.values():
                    worker.pass_on(told)
                for future in done:
                    number, worker = self._busy.pop(future)
                    outcomes[number] = _outcome(future, round(time.monotonic() - begun[number], 3))
                    self._idle.append(worker)
            yield outcomes.pop(wanted)

    def _submit(self, function: Callable[..., Any], call: tuple[Any, ...]) -> "tuple[Future[Any], _Worker]":
        """To a process that waits for work, or a new one where there is none or it has died."""
        while self._idle:
            worker = self._idle.pop()
            try:
                return worker.submit(function, call), worker
            except BrokenProcessPool:
                worker.close()
        worker = _Worker(self._threads)
        return worker.submit(function, call), worker

    def close(self) -> None:
        """End the processes, and what they are at."""
        self._end_busy()
        for worker in self._idle:
            worker.close()
        self._idle = []

    def _end_busy(self) -> None:
        for _, worker in self._busy.values():
            worker.close()
        self._busy = {}


class _Worker:
    """A process, in a pool of its own: where one process of a pool dies, all that the pool was at is lost."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # not forked: TensorFlow does not survive a fork
        self._heard, self._said = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            max_workers=1, mp_context=context, initializer=_start, initargs=(self._said, threads)
        )

    def submit(self, function: Callable[..., Any], call: tuple[Any, ...]) -> "Future[Any]":
        return self._pool.submit(_call, function, call)

    def pass_on(self, told: Told) -> None:
        while self._heard.poll():
            told(*self._heard.recv())

    def close(self) -> None:
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()  # a pool waits for what it is at, and Python does not end before


def _outcome(future: "Future[Any]", seconds: float) -> Outcome:
    try:
        return Outcome(future.result(), None, seconds)
    except BrokenProcessPool:
        return Outcome(None, Died(), seconds)
    except Exception as failure:  # noqa: BLE001  whatever TensorFlow raises is this training's failure alone
        return Outcome(None, failure, seconds)


_said: Any = None  # this worker's end of a pipe


def _start(said: Any, threads: int) -> None:
    global _said
    _said = said
    end_with_parent()
    prepare_tensorflow(threads)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments, lambda *word: _said.send(word))
