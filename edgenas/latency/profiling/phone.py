"""A phone that is ours for measuring: `benchmark_model` runs there, one process a model, beside a reference model.

The reference is measured anew every few models. A visit counts when the reference took the same before and after it;
only ratios to it are kept, since a phone grows warm and slow within minutes.
"""

import contextlib
import random
import re
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

import edgenas.files as files
from edgenas.device import Device, Phone, PhoneInfo, open_phone, phone_delegate, shares_host
from edgenas.device.agent.bounding import bound_told
from edgenas.device.agent.children import OF_MEMORY
from edgenas.errors import CheckFailedError, DeviceError, TooSlowError, UnreachableError
from edgenas.latency.profiling.bench import ROOMY_KB, Progress, no_progress, refuse_threads
from edgenas.latency.profiling.benchmark_output import (
    LARGEST_FILE_BYTES,
    Benchmark,
    NonsenseError,
    read_result,
    read_text,
)
from edgenas.latency.profiling.rounds import TRIES, Ratio, Rounds, half_width, pass_until_known, still_unknown
from edgenas.latency.steadiness import Steadiness, slowed

# Models between two runs of the reference; visits beside a reference that moved by more than that do not count.
GROUP, MOST_MOVED = 4, 0.10
MOST_MOVED_BUSY = 0.5  # of a phone that is busy all the time
# Of one process: inferences at least, for so long at least, after a warm-up; seconds.
RUNS, LEAST_S, MOST_S, WARMUP_RUNS, WARMUP_S = 50, 0.1, 60, 3, 0.05
# After that a model hangs: it has long passed what benchmark_model was told to stop at.
HANGS_S = 300


@dataclass(frozen=True)
class Visit:
    """One process of benchmark_model: what it found, or why the model cannot be run."""

    found: Benchmark | None
    failure: str | None


class PhoneBench:
    """Use it as a context manager, as `Bench`.

    Args:
        device: a phone; its delegate and cores are used.
        threads: of one inference.
        progress: told when the phone is disturbed.

    Raises:
        DeviceError: on entering: unreachable, without a benchmark_model that runs there, or somebody else measures.
        InputError: on entering: the device's file names no benchmark_model that is there, or more threads than cores.
    """

    def __init__(self, device: Device, threads: int, progress: Progress = no_progress) -> None:
        self.device = device
        self._threads = threads
        self._progress = progress
        self._sent: set[str] = set()
        self._expected_us: float | None = None
        self._tries = TRIES
        self._result_file = False  # whether this benchmark_model tells its times only there
        self._stack = contextlib.ExitStack()
        self.start_s = self.sending_s = 0.0  # what reaching it and sending to it took

    def __enter__(self) -> Self:
        start = time.monotonic()
        try:
            self.phone: Phone = open_phone(self.device, self._stack)
            self.runtime_version = self.phone.runtime_version()
            refuse_threads(self.device, self._threads, self.info.cores)
            self.phone.lock()
            self._tool = self.phone.tool
        except BaseException:
            self._stack.close()
            raise
        self._folder = f"{self.phone.connection.folder}/bench"
        self.start_s = time.monotonic() - start
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(DeviceError):  # a link that broke has said so already
            self.phone.connection.run(["rm", "-rf", "--", self._folder])
        self._stack.close()

    @property
    def reference_us(self) -> float:
        """What the reference model took here."""
        if self._expected_us is None:
            raise DeviceError(f"{self.device.name}: nothing was measured yet.")
        return self._expected_us

    @property
    def info(self) -> PhoneInfo:
        """What the phone says of itself."""
        return self.phone.info

    @property
    def shares_host(self) -> bool:
        """Whether the host's own work disturbs it."""
        return shares_host(self.info)

    def delegate(self, precision: str) -> str:
        """What benchmark_model hands operators to, as a table's identity names it."""
        return phone_delegate(self.device) or "none"

    def measure(self, models: Sequence[Path], reference: Path) -> Rounds:
        """Send what is not there yet, and measure.

        Raises:
            DeviceError: the link broke, no room, or the phone stays disturbed.
        """
        *paths, beside = self.send(*models, reference)
        rounds = self.measure_there(paths, beside)
        if self.info.disk_free_kb < ROOMY_KB:
            self._forget([path for path in paths if path != beside])
        return rounds

    def measure_there(self, models: Sequence[str], reference: str) -> Rounds:
        """Measure models that are on the phone, pass after pass, until each is known.

        Args:
            models, reference: paths there.

        Raises:
            CheckFailedError: the delegate that is asked for takes nothing of the reference model.
            DeviceError: the link broke, or the phone stays disturbed; the text says by what.
        """
        batch = _Batch(self.visit, models, reference)
        busy = pass_until_known(
            batch.unknown,
            batch.visit_all,
            lambda missing: self._complaint(batch, missing),
            lambda attempt, tries: self._progress(f"waiting: {self.device.name} is disturbed", attempt, tries),
            self._tries,
        )
        self._tries = 1 if busy else TRIES
        rounds = batch.result(busy, self.phone.health() if busy else "")
        self._expected_us = self._expected_us or rounds.reference_us
        return rounds

    def refuse_unknown(self, flags: Sequence[str]) -> None:
        """Raise `DeviceError` where this benchmark_model does not know a flag: it would warn, and measure without."""
        if not flags:
            return
        done = self.phone.connection.run([self._tool, "--help"])
        known = set(re.findall(r"--(\w+)", done.stdout + done.stderr))
        for flag in (flag.partition("=")[0] for flag in flags):
            if flag.removeprefix("--") not in known:
                raise DeviceError(
                    f"{self.device.name}: its benchmark_model has no {flag}, so it cannot measure this model as asked. "
                    "TFLite's own has it, where it is not old; LiteRT's does not."
                )

    def visit(self, model: str, runs: int = RUNS, every_ms: float | None = None, flags: Sequence[str] = ()) -> Visit:
        """Run one model in a process of its own.

        Args:
            model: its path on the phone.
            runs: inferences at least.
            every_ms: begin one inference every so many ms; None: one after the other.
            flags: of benchmark_model, besides.

        Raises:
            DeviceError: the link broke, or benchmark_model does not run there at all.
        """
        failure = ""
        for _ in range(2):  # a line of something else may come between what benchmark_model prints, but hardly twice
            try:
                return self._visit(model, runs, every_ms, flags)
            except NonsenseError as error:
                failure = str(error).rstrip(".")
        return Visit(None, failure)

    def _visit(self, model: str, runs: int, every_ms: float | None, more: Sequence[str]) -> Visit:
        flags = [*more, f"--num_threads={self._threads}", f"--num_runs={runs}", f"--warmup_runs={WARMUP_RUNS}"]
        flags += [f"--min_secs={LEAST_S}", f"--max_secs={MOST_S}", f"--warmup_min_secs={WARMUP_S}"]
        if every_ms is not None:
            flags.append(f"--run_frequency={1000 / every_ms:g}")
        result = f"{self._folder}/result.pb"
        if self._result_file:
            self.phone.connection.run(["rm", "-f", "--", result])
            flags.append(f"--result_file_path={result}")
        try:
            done = self.phone.benchmark(model, flags, HANGS_S)
        except TooSlowError:
            self.phone.connection.run(["true"])  # says so where it is the link that is gone, and not the model's fault
            return Visit(None, f"benchmark_model had not ended after {HANGS_S} s, and was ended")
        text = f"{done.stdout}\n{done.stderr}"
        if done.returncode != 0:
            return Visit(None, why_it_failed(done.returncode, text, self.phone.most_kb))
        if self._result_file:
            return Visit(self._read_file(result), None)
        if "Inference timings in us" not in text:  # LiteRT's tool
            self._result_file = True
            self.phone.connection.run(["mkdir", "-p", "--", self._folder])
            return self._visit(model, runs, every_ms, more)
        return Visit(read_text(text), None)

    def _read_file(self, remote: str) -> Benchmark:
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "result.pb"
            try:
                self.phone.connection.get(remote, local, largest_bytes=LARGEST_FILE_BYTES)
            except UnreachableError:
                raise
            except DeviceError as error:
                raise NonsenseError(f"benchmark_model told no times: {error}") from None
            return read_result(local.read_bytes())

    def send(self, *models: Path) -> tuple[str, ...]:
        """The models' paths on the phone, named by their content; sent is what is not there yet.

        Raises:
            DeviceError: the link broke, or no room.
        """
        names = {path: f"{files.sha256(path)[:16]}.tflite" for path in models}
        new = {name: path for path, name in names.items() if name not in self._sent}
        if new:
            self._send(new)
        return tuple(f"{self._folder}/{names[path]}" for path in models)

    def _send(self, new: Mapping[str, Path]) -> None:
        start = time.monotonic()
        connection, archive = self.phone.connection, f"{self._folder}/models.tar"
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "models.tar"
            with tarfile.open(local, "w", format=tarfile.USTAR_FORMAT) as content:  # the one that Android 8 reads too
                for name, path in new.items():
                    content.add(path.resolve(), name)
            connection.put(local, archive)
        done = connection.run(["sh", "-c", 'tar -xf "$1" -C "$2" && rm -f -- "$1"', "sh", archive, self._folder], 300)
        if done.returncode != 0:
            why = done.stderr.strip()[-200:]
            raise DeviceError(f"{self.device.name}: the models sent could not be unpacked: {why}")
        self._sent |= set(new)
        self.sending_s += time.monotonic() - start

    def _forget(self, paths: Sequence[str]) -> None:
        """Make room again; what is measured once more is sent once more."""
        for start in range(0, len(paths), GROUP * 10):  # a command has a longest length
            self.phone.connection.run(["rm", "-f", "--", *paths[start : start + GROUP * 10]])
        self._sent -= {path.rpartition("/")[2] for path in paths}

    def _complaint(self, batch: "_Batch", missing: int) -> str:
        """Why the phone cannot be measured now, as far as it can tell."""
        visits = max(1, batch.visits)
        return (
            f"{self.device.name} is too unsteady to measure: {missing} models are without enough undisturbed visits; "
            f"in {batch.interrupted / visits:.0%} of all visits some inferences took far longer than the others, "
            f"{batch.drifted / visits:.0%} had a reference model beside them that had moved by more than "
            f"{MOST_MOVED:.0%}. {self.phone.health()} Close what else runs there, let it cool, keep it plugged in, and "
            "try again: it goes on where it was."
        )


def why_it_failed(returncode: int, text: str, most_kb: int = 0) -> str:
    """What ended benchmark_model, in a line.

    Args:
        returncode, text: of it.
        most_kb: the memory that it was held to; 0: to none.

    Raises:
        DeviceError: it does not run there at all, whatever the model.
    """
    if returncode in (126, 127):
        raise DeviceError(f"benchmark_model does not run there: {text.strip()[-200:]}.")
    signals = {132: "SIGILL: an instruction that this processor lacks", 134: "SIGABRT", 135: "SIGBUS",
               136: "SIGFPE", 137: "SIGKILL: perhaps out of memory", 139: "SIGSEGV", 143: "SIGTERM",
               159: "SIGSYS: a call that Android forbids"}  # fmt: skip
    if returncode in signals:
        told = bound_told(most_kb) if returncode - 128 in OF_MEMORY else ""
        return f"benchmark_model was ended by {signals[returncode]}{told}"
    errors = [line.strip() for line in text.splitlines() if line.strip().startswith("ERROR")]
    lines = errors or [line.strip() for line in text.splitlines() if line.strip()] or ["it does not say why"]
    told = bound_told(most_kb) if "allocate" in text else ""  # it does not say whether it lacked memory
    return f"benchmark_model ended with exit code {returncode}: {' | '.join(lines[:2])[:300]}{told}"


@dataclass
class _Batch:
    """The passes over some models so far."""

    visit: Callable[[str], Visit]
    models: Sequence[str]
    reference: str
    passes: int = 0
    visits: int = 0
    interrupted: int = 0
    drifted: int = 0
    busy_s: float = 0.0
    failed: dict[int, str] = field(default_factory=dict)
    delegated: dict[int, str] = field(default_factory=dict)
    references_us: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ratios: list[list[float]] = [[] for _ in self.models]
        self.times_us: list[list[float]] = [[] for _ in self.models]

    def unknown(self) -> list[int]:
        """The models that need another visit."""
        return still_unknown(self.ratios, self.failed)

    def visit_all(self, todo: Sequence[int], busy: bool) -> bool:
        """One visit to each, in an order of this pass' own; whether most of them gave a value.

        A phone that is busy all the time is taken as it is, while the reference stays within bounds.
        """
        most_moved = MOST_MOVED_BUSY if busy else MOST_MOVED
        start = time.monotonic()
        order = list(todo)
        random.Random(self.passes).shuffle(order)
        good = 0
        before_us = self._reference(busy)
        for place in range(0, len(order), GROUP):
            group = order[place : place + GROUP]
            found = {index: self._visit(index, busy) for index in group}
            after_us = self._reference(busy)
            steady = before_us is not None and after_us is not None and abs(after_us / before_us - 1) <= most_moved
            for index, us in found.items():
                if index in self.failed:
                    good += 1
                elif not steady:
                    self.drifted += 1
                elif us is not None and before_us is not None and after_us is not None:
                    self.ratios[index].append(us / ((before_us + after_us) / 2))
                    self.times_us[index].append(us)
                    good += 1
            before_us = after_us
        self.passes += 1
        self.busy_s += time.monotonic() - start
        return good > len(todo) / 2

    def _visit(self, index: int, busy: bool) -> float | None:
        """Microseconds of one inference; None where it was disturbed, or cannot be run."""
        visit = self.visit(self.models[index])
        self.visits += 1
        if visit.found is None:
            self.failed[index] = visit.failure or "it does not say why"
            return None
        if visit.found.delegated is not None:
            self.delegated[index] = visit.found.delegated
        if visit.found.inference.disturbed:
            self.interrupted += 1
            if not busy:
                return None
        return visit.found.inference.typical_us

    def _reference(self, busy: bool) -> float | None:
        """The same of the reference model."""
        visit = self.visit(self.reference)
        if visit.found is None:
            raise DeviceError(f"The reference model does not run on the phone: {visit.failure}.")
        if visit.found.delegated == "none":
            raise CheckFailedError(
                "The phone's delegate takes nothing of the reference model: what is measured would be the processor's "
                "times under the delegate's name. Name another one as `delegate` under [runtime] in the phone's file: "
                '"xnnpack", or "none" for TFLite\'s own kernels; docs/phones.md says more.'
            )
        if visit.found.inference.disturbed and not busy:
            return None
        self.references_us.append(visit.found.inference.typical_us)
        return self.references_us[-1]

    def result(self, busy: bool = False, health: str = "") -> Rounds:
        """All visits together, of a phone that was busy or not; `health` is what it says of that."""
        visits = max(1, self.visits)
        return Rounds(
            ratios=tuple(
                Ratio(float(np.mean(ratios)), half_width(ratios), None, None) if ratios else None
                for ratios in self.ratios
            ),
            visits_us=tuple(np.array(times) for times in self.times_us),
            failed=self.failed,
            reference_us=float(np.median(self.references_us)),
            visits=self.visits,
            interrupted=self.interrupted,
            drifted=self.drifted,
            busy_s=self.busy_s,
            delegated=tuple(self.delegated.get(index) for index in range(len(self.models))),
            steadiness=Steadiness(busy, self.interrupted / visits, self.drifted / visits, health),
            slowed=slowed(self.references_us),
        )
