"""Whether the tests notice faults: puts faults into a copy of the code, one at a time, and runs the tests of the place.

Two kinds: faults that stand in benchmarks/faults.toml, each once overlooked by the tests; and fresh ones, drawn by a
seed from the lines of `HEART` that the tests run: a comparison or a sum turned round, a constant moved, a condition
always or never true, a statement left out. A fault is caught when a test fails, or does not end. Prints a table, writes
JSON, and resumes: what is known for the same code and the same tests is not tried again.

    python benchmarks/mutation.py               60 fresh faults and all of faults.toml
    python benchmarks/mutation.py --seed 7      other ones
    python benchmarks/mutation.py --named       those of faults.toml alone
"""

import argparse
import ast
import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import edgenas.files as files

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
OUT = RESULTS / "mutation.json"
COPIED = (
    "edgenas", "tests", "devices", "latency_tables", "examples", "benchmarks", "docs", "pyproject.toml", "README.md",
)  # fmt: skip
# Where a silent fault costs a user most: what is measured, promised, searched, shipped, and kept.
HEART = (
    "architecture/graph.py", "deploy/gates.py", "deploy/promise.py", "deploy/shipment.py", "device/agent/locking.py",
    "device/agent/releases.py", "device/agent/rounds.py", "device/agent/running.py", "device/agent/store.py",
    "device/agent/switching.py", "evaluation/data/sealed.py", "evaluation/data/splits.py", "files.py",
    "latency/memory.py", "latency/profiling/anchors.py", "latency/profiling/checking.py",
    "latency/profiling/measuring.py", "latency/profiling/profiler.py", "latency/profiling/rounds.py",
    "latency/profiling/siblings.py", "latency/table/calibration.py", "latency/table/certificate.py",
    "latency/table/table.py", "space/mobile.py", "strategy/front.py", "strategy/objectives.py", "strategy/settings.py",
    "strategy/study.py",
)  # fmt: skip
# The tests that cover a line are tried quickest first, for so long; what they do not catch has survived.
MOST_S, LONGEST_TEST_S = 240, 60
_SWAPS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Add: "-", ast.Sub: "+",
    ast.Mult: "/", ast.Div: "*", ast.And: "or", ast.Or: "and", ast.Is: "is not", ast.IsNot: "is", ast.In: "not in",
    ast.NotIn: "in",
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """A piece of a file, and what stands there instead."""

    file: str  # below the checkout
    start: int  # offsets in its text
    end: int
    new: str
    what: str

    @property
    def line(self) -> int:
        return (ROOT / self.file).read_text()[: self.start].count("\n") + 1

    @property
    def lines(self) -> range:
        text = (ROOT / self.file).read_text()[self.start : self.end]
        return range(self.line, self.line + text.count("\n") + 1)

    @property
    def key(self) -> str:
        text = (ROOT / self.file).read_text()
        return hashlib.sha256(f"{self.file}{text}{self.start}{self.new}".encode()).hexdigest()[:16]

    def put_into(self, folder: Path) -> None:
        path = folder / self.file
        text = (ROOT / self.file).read_text()
        path.write_text(text[: self.start] + self.new + text[self.end :])


def named() -> list[Fault]:
    """Those of faults.toml; each must fit exactly one place."""
    found = []
    for row in tomllib.loads((ROOT / "benchmarks" / "faults.toml").read_text())["fault"]:
        text = (ROOT / row["file"]).read_text()
        if text.count(row["old"]) != 1:
            sys.exit(f"faults.toml: {row['old']!r} stands {text.count(row['old'])} times in {row['file']}, not once.")
        start = text.index(row["old"])
        found.append(Fault(row["file"], start, start + len(row["old"]), row["new"], row["what"]))
    return found


def faults_of(file: str) -> Iterator[Fault]:
    """Every fault that can be put into a file."""
    text = (ROOT / file).read_text()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    content = text.encode()

    def place(node: ast.AST) -> tuple[int, int]:
        begin = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return len(content[:begin].decode()), len(content[:end].decode())

    def between(left: ast.AST, right: ast.AST, operator: ast.AST) -> Iterator[Fault]:
        if type(operator) in _SWAPS:
            start, end = place(left)[1], place(right)[0]
            gap = text[start:end]
            if gap.strip().strip("()").strip():
                word = gap.strip().strip("()").strip()
                new = gap.replace(word, _SWAPS[type(operator)])
                yield Fault(file, start, end, new, f"{word} became {_SWAPS[type(operator)]}")

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield from between(node.left, node.comparators[0], node.ops[0])
        elif isinstance(node, ast.BinOp):
            yield from between(node.left, node.right, node.op)
        elif isinstance(node, ast.BoolOp):
            yield from between(node.values[0], node.values[1], node.op)
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            start, end = place(node)
            yield Fault(file, start, end, f"({text[start:end]} + 1)", f"{text[start:end]} became one more")
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            start, end = place(node.test)
            for truth in ("False", "True") if not isinstance(node, ast.While) else ("False",):
                yield Fault(file, start, end, truth, f"{text[start:end][:40]} became {truth}")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            start, end = place(node)
            yield Fault(file, start, end, "pass", f"{text[start:end][:40]} left out")


class Coverage:
    """Which tests run a line, and how long each takes."""

    def __init__(self) -> None:
        self.database, self.seconds_file = RESULTS / "mutation.coverage", RESULTS / "mutation.seconds.json"
        stamp = RESULTS / "mutation.stamp"
        tracked = subprocess.run(["git", "ls-files", "edgenas", "tests"], cwd=ROOT, capture_output=True, check=True)
        names = tracked.stdout.decode().split()
        now = files.sha256(b"".join((ROOT / name).read_bytes() for name in names if (ROOT / name).is_file()))
        if not stamp.is_file() or stamp.read_text() != now:
            OUT.unlink(missing_ok=True)  # what other code, or other tests, made of a fault tells nothing of these
            self._run()
            files.write_atomically(stamp, now)
        self.seconds: dict[str, float] = json.loads(self.seconds_file.read_text())
        self._open = sqlite3.connect(self.database, check_same_thread=False)

    def _run(self) -> None:
        print("Running all tests once, to see which lines each runs ...", flush=True)
        RESULTS.mkdir(exist_ok=True)
        report = RESULTS / "mutation.junit.xml"
        argv = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider"]
        argv += ["--cov=edgenas", "--cov-context=test", "--cov-report=", f"--junitxml={report}", "--durations=0"]
        argv += ["--durations-min=0", "-o", "junit_duration_report=total"]
        done = subprocess.run(
            argv, cwd=ROOT, env=os.environ | {"COVERAGE_FILE": str(self.database)}, capture_output=True, text=True
        )
        if done.returncode != 0:
            sys.exit(f"The tests fail without any fault:\n{done.stdout[-3000:]}")
        seconds: dict[str, float] = {}
        for line in done.stdout.splitlines():
            parts = line.split(maxsplit=2)
            if len(parts) == 3 and parts[1] in ("call", "setup", "teardown") and parts[0].endswith("s"):
                seconds[parts[2]] = seconds.get(parts[2], 0.0) + float(parts[0][:-1])
        files.write_atomically(self.seconds_file, json.dumps(seconds))

    def lines(self, file: str) -> set[int]:
        """Those that some test runs."""
        return {line for line, _ in self._rows(file)}

    def tests(self, file: str, lines: Sequence[int]) -> list[str]:
        """The tests that run one of the lines, quickest first."""
        found = {test for line, test in self._rows(file) if line in lines}
        return sorted(found, key=lambda test: self.seconds.get(test, 1.0))

    def _rows(self, file: str) -> list[tuple[int, str]]:
        from coverage.numbits import numbits_to_nums

        rows = self._open.execute(
            "select line_bits.numbits, context.context from line_bits join file on file.id = line_bits.file_id "
            "join context on context.id = line_bits.context_id where file.path like ?",
            (f"%/{file}",),
        ).fetchall()
        return [
            (line, context.partition("|")[0])
            for bits, context in rows
            if "|" in context
            for line in numbits_to_nums(bits)
        ]


def copy_to(folder: Path) -> Path:
    """The checkout in a folder of its own."""
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy(source, folder / name)
    return folder


def caught_by(fault: Fault, tests: Sequence[str], folder: Path, seconds: dict[str, float]) -> tuple[str | None, float]:
    """The first test that fails with a fault, or None; and how long it took."""
    begun = time.monotonic()
    fault.put_into(folder)
    chosen, reckoned = [], 0.0
    for test in tests:
        reckoned += seconds.get(test, 1.0)
        if chosen and (reckoned > MOST_S or seconds.get(test, 1.0) > LONGEST_TEST_S):
            break
        chosen.append(test)
    argv = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", "-rfE", *chosen]
    try:
        with tempfile.TemporaryDirectory() as tmp:
            done = subprocess.run(
                argv, cwd=folder, capture_output=True, text=True, timeout=2 * MOST_S, env=os.environ | {"TMPDIR": tmp}
            )
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        by = None if done.returncode == 0 else (failed[0] if failed else f"pytest ended with {done.returncode}")
    except subprocess.TimeoutExpired:
        by = "the tests did not end"
    shutil.copy(ROOT / fault.file, folder / fault.file)
    return by, time.monotonic() - begun


def drawn(coverage: Coverage, seed: int, count: int) -> list[Fault]:
    """Fresh faults, each on a line of its own that some test runs."""
    rng = random.Random(seed)
    by_line: dict[tuple[str, int], list[Fault]] = {}
    for name in HEART:
        covered = coverage.lines(f"edgenas/{name}")
        for fault in faults_of(f"edgenas/{name}"):
            if fault.line in covered:
                by_line.setdefault((fault.file, fault.line), []).append(fault)
    return [rng.choice(by_line[place]) for place in rng.sample(sorted(by_line), count)]


class Trials:
    """Faults tried so far, in a copy of the checkout for each core."""

    def __init__(self, coverage: Coverage, scratch: Path) -> None:
        self._coverage = coverage
        self._free = [copy_to(scratch / str(number)) for number in range(2)]
        self.known: dict[str, dict[str, object]] = json.loads(OUT.read_text()) if OUT.is_file() else {}

    def try_it(self, fault: Fault) -> None:
        if fault.key not in self.known:
            tests = self._coverage.tests(fault.file, fault.lines)
            folder = self._free.pop()
            by, seconds = caught_by(fault, tests, folder, self._coverage.seconds)
            self._free.append(folder)
            row = {"line": fault.line, "by": by, "seconds": round(seconds, 1), "tests": len(tests)}
            self.known[fault.key] = {**asdict(fault), **row}
            files.write_atomically(OUT, json.dumps(self.known, indent=1) + "\n")
        row = self.known[fault.key]
        said = "caught" if row["by"] else "SURVIVED"
        print(
            f"{said:9} {fault.file}:{fault.line} {fault.what}  [{row['tests']} tests, {row['seconds']} s]", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--named", action="store_true")
    options = parser.parse_args()
    coverage = Coverage()
    groups = {"of faults.toml": named()}
    if not options.named:
        groups["fresh"] = drawn(coverage, options.seed, options.count)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
        trials = Trials(coverage, Path(scratch))
        list(pool.map(trials.try_it, [fault for group in groups.values() for fault in group]))
    for title, group in groups.items():
        caught = sum(trials.known[fault.key]["by"] is not None for fault in group)
        print(f"{title}: {caught} of {len(group)} caught ({caught / max(1, len(group)):.0%})")
    print(f"in {(time.monotonic() - begun) / 60:.1f} min")


if __name__ == "__main__":
    main()
