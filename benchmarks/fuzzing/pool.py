"""Processes that try inputs: what became of each, limits on time and memory, and what is kept of those that fail."""

import contextlib
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fuzzing.kinds import KINDS
from edgenas.cli import main as edgenas
from edgenas.device.agent import inspection, running
from edgenas.device.agent import main as agent

KEPT = Path(__file__).resolve().parents[2] / ".edgenas" / "benchmarks" / "fuzz"
MOST_S, MOST_KB, MOST_SAID_BYTES = 10.0, 1 << 20, 64 << 10
BLOCKED_S = 10.0  # without a moment of work it waits for what does not come
DEVICE_KB = 512 << 10  # the memory of the device that models are run on
_NET_BYTES = 6 << 30  # of addresses: more is refused, so that the machine outlives a fault
_SLACK_KB = 32 << 10  # of a child's memory: what a Python that works takes, and pages of the file
_HARNESS, _OVER_QUARTER = 99, 98  # exit codes of ours
_WHY = {1: "exit 1", _HARNESS: "the harness itself failed", _OVER_QUARTER: "more than a quarter of the device's memory"}


@dataclass
class Tried:
    """What became of one input."""

    kind: str
    number: int
    code: int  # exit code; negative: the signal that ended it
    seconds: float  # of work on a core
    kb: int  # at most in memory
    why: str | None  # it failed


@dataclass
class Running:
    """A child that tries inputs, one after the other."""

    kind: str
    left: list[int]  # numbers of inputs, the one that it is at first
    pid: int
    told: int  # a descriptor: a line for each input that was tried
    ahead: bytes = b""
    before_s: float = 0.0  # work done before the input that it is at
    worked_s: float = 0.0
    worked_at_s: float = 0.0  # when it was last seen to have worked
    stopped: str | None = None


# One input, in a child


def try_here(kind: str, seed: int, number: int) -> int:
    """Make an input in the current folder, and run what it is for; the exit code that a user would get."""
    rng = random.Random(f"{seed} {kind} {number}")
    try:
        runs = KINDS[kind](rng)
        Path("argv.json").write_text(json.dumps(runs))
    except Exception:  # noqa: BLE001 - told apart from a fault of the product
        traceback.print_exc()
        return _HARNESS
    codes = [run_model(Path(argv[1])) if argv[0] == "MODEL" else run(argv) for argv in runs]
    return next((code for code in codes if code in (1, _OVER_QUARTER)), codes[-1])


def run(argv: list[str]) -> int:
    """The exit code of a command, run in this process as the program `edgenas` runs it."""
    sys.argv = ["edgenas", *argv]
    try:
        edgenas()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - whatever it is, a user would see a traceback
        traceback.print_exc()
        return 1
    return 0


def run_model(path: Path) -> int:
    """What an agent on a small device makes of a model: 0 or 4, and 1 for what it did not foresee."""

    def memory_kb() -> tuple[int, int]:
        return DEVICE_KB, DEVICE_KB

    for module in (inspection, running):
        vars(module)["memory_kb"] = memory_kb
    Path("work").mkdir(exist_ok=True)
    params = {"model": str(path), "runs": 10, "warmup": 1, "threads": 1}
    request = json.dumps({"id": 1, "op": "single", "params": params})
    before_kb, most_kb = _now_kb(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    answer = agent.answer(agent.operations("work", None), request, lambda told: None)  # type: ignore[arg-type]
    peak_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of all so far
    print(json.dumps(answer)[:2000], f"at most {peak_kb - before_kb} kB more", file=sys.stderr)
    if peak_kb > most_kb and peak_kb - before_kb > DEVICE_KB // 4 + _SLACK_KB:
        return _OVER_QUARTER
    return 0 if answer["ok"] else 1 if answer["error"]["kind"] in ("failed", "os_error") else 4


def _now_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * (os.sysconf("SC_PAGESIZE") >> 10)


def _child(kind: str, seed: int, numbers: list[int], scratch: Path, tell: int) -> None:
    """The child's whole life; it never returns."""
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (_NET_BYTES, _NET_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in numbers:
            folder = scratch / f"{kind}-{number}"
            os.chdir(folder)
            for descriptor, name in ((1, "out"), (2, "said")):
                file = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644)
                os.dup2(file, descriptor)
                os.close(file)
            os.environ.update(HOME=str(folder), XDG_CONFIG_HOME=f"{folder}/config", COLUMNS="100", TERM="dumb")
            Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
            begun_s = sum(os.times()[:4])
            code = try_here(kind, seed, number)
            sys.stdout.flush()
            sys.stderr.flush()
            os.chdir("/")
            os.write(tell, f"{code} {sum(os.times()[:4]) - begun_s:.3f} {_peak_kb()}\n".encode())
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(_HARNESS)


def _peak_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


# All of them, from the parent


@dataclass
class Pool:
    """Children at work, a few at a time.

    Attributes:
        made: the seeds' folder; each input gets a copy of it.
        scratch: where the copies lie.
        at_a_time: how many children.
        kept: where the folders of inputs that failed go.
    """

    made: Path
    scratch: Path
    seed: int
    at_a_time: int = 2
    kept: Path = KEPT
    running: list[Running] = field(default_factory=list)

    def try_all(self, jobs: Sequence[tuple[str, list[int]]]) -> Iterator[Tried]:
        """What becomes of each input, in the order in which they end."""
        ahead = list(reversed(jobs))
        try:
            while ahead or self.running:
                while ahead and len(self.running) < self.at_a_time:
                    self.running.append(self._begin(*ahead.pop()))
                ready = select.select([each.told for each in self.running], [], [], 0.5)[0]
                for each in list(self.running):
                    if each.told not in ready:
                        _watch(each)
                        continue
                    if data := os.read(each.told, 1 << 16):
                        yield from self._heard(each, data)
                        continue
                    self.running.remove(each)
                    if each.left:  # that was the end of it
                        yield self._ended(each)
                    else:
                        os.waitpid(each.pid, 0)
                    os.close(each.told)
                    if each.left:
                        ahead.append((each.kind, each.left))
        finally:
            for each in self.running:
                _kill(each)
                os.waitpid(each.pid, 0)

    def _begin(self, kind: str, numbers: list[int]) -> Running:
        for number in numbers:
            shutil.rmtree(self.scratch / f"{kind}-{number}", ignore_errors=True)
            shutil.copytree(self.made, self.scratch / f"{kind}-{number}")
        sys.stdout.flush()
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(told)
            _child(kind, self.seed, numbers, self.scratch, tell)
        os.close(tell)
        return Running(kind, list(numbers), pid, told, worked_at_s=time.monotonic())

    def _heard(self, each: Running, data: bytes) -> Iterator[Tried]:
        *lines, each.ahead = (each.ahead + data).split(b"\n")
        for line in lines:
            code, seconds, kb = line.split()
            each.before_s += float(seconds)
            yield self._judge(each, int(code), float(seconds), int(kb))

    def _ended(self, each: Running) -> Tried:
        """What became of the input at which a child ended."""
        _, status, usage = os.wait4(each.pid, 0)
        seconds = usage.ru_utime + usage.ru_stime - each.before_s
        return self._judge(each, os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss)

    def _judge(self, each: Running, code: int, seconds: float, kb: int) -> Tried:
        number = each.left.pop(0)
        folder = self.scratch / f"{each.kind}-{number}"
        said = folder / "said"
        why = each.stopped or _WHY.get(code)
        if why is None and code < 0:
            why = f"killed by {signal.Signals(-code).name}"
        if why is None and kb > MOST_KB:
            why = f"{kb >> 10} MB of memory"
        if why is None and seconds > MOST_S:
            why = f"{seconds:.0f} s of work"
        if why is None and said.is_file() and said.stat().st_size > MOST_SAID_BYTES:
            why = f"{said.stat().st_size >> 10} kB on stderr"
        if why is not None:
            self._keep(each.kind, number, folder, why)
        shutil.rmtree(folder, ignore_errors=True)
        return Tried(each.kind, number, code, seconds, kb, why)

    def _keep(self, kind: str, number: int, folder: Path, why: str) -> None:
        """The folder as it was left, but for what cannot be copied, and how to try it again."""
        target = self.kept / f"{kind}-{self.seed}-{number}"
        shutil.rmtree(target, ignore_errors=True)
        with contextlib.suppress(shutil.Error):
            shutil.copytree(folder, target, symlinks=True, ignore=_pipes)
        made = folder / "argv.json"
        (target / "why.txt").write_text(
            f"{why}\npython benchmarks/fuzz.py --seed {self.seed} --only {kind} --number {number}\n"
            f"edgenas {made.read_text()[:3000] if made.is_file() else '?'}\n"
        )


def _watch(each: Running) -> None:
    """End who hangs. What counts is work, not how busy this machine is."""
    worked_s, now = _worked_s(each.pid), time.monotonic()
    if worked_s > each.worked_s:
        each.worked_s, each.worked_at_s = worked_s, now
    if worked_s - each.before_s > MOST_S:
        each.stopped = f"more than {MOST_S:g} s of work"
    elif now - each.worked_at_s > BLOCKED_S:
        each.stopped = f"waits for ever ({BLOCKED_S:g} s without work)"
    if each.stopped:
        _kill(each)


def _pipes(folder: str, names: list[str]) -> list[str]:
    return [
        name for name in names if not ((path := Path(folder, name)).is_file() or path.is_dir() or path.is_symlink())
    ]


def _kill(each: Running) -> None:
    for kill in (os.kill, os.killpg):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(each.pid, signal.SIGKILL)


def _worked_s(pid: int) -> float:
    """On a core so far: a process, its children that have ended, and those that run."""
    try:
        own = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    return sum(map(int, own)) / os.sysconf("SC_CLK_TCK") + sum(_worked_s(int(child)) for child in children)
