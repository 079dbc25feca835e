"""Whether anything that others made holds, fills or breaks the host: spoiled inputs through EdgeNAS's own commands.

Ten kinds: latency tables, bundles, arrays, TOML, databases, arguments, answers of an agent, images, folders, models.
Each input follows from (seed, kind, number), and is tried in a folder of its own by a forked process, which takes ten
of them one after the other. It fails where the command ends with exit code 1 or by a signal, takes more than 10 s or
1 GB, or says more than 64 kB on stderr; a model also where the agent's child takes more than its quarter of a device of
512 MB. Prints a table, writes JSON, and resumes: what was tried with the same code is not tried again. What failed
stays in `.edgenas/benchmarks/fuzz/KIND-SEED-NUMBER`, with a line how to try it again.

    python benchmarks/fuzz.py                          20,000 inputs of seed 0
    python benchmarks/fuzz.py --seed 7 --inputs 300    others, fewer
    python benchmarks/fuzz.py --only npz --number 41   one of them, here: what it prints is shown
"""

import argparse
import contextlib
import gc
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before NumPy is there: who forks has no threads
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import edgenas.files as files
from benchmarks.fuzzing import seeds
from benchmarks.fuzzing.kinds import KINDS
from benchmarks.fuzzing.pool import Pool, Tried, run, try_here

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "fuzz.json"
BLOCK = 10  # inputs of a kind in a row


class Results:
    """What is known, kept in a file.

    Args:
        path: of it.
        seed: what is known of another seed, or of other code, is forgotten.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self._path = path
        names = sorted([*(ROOT / "edgenas").rglob("*.py"), *(ROOT / "benchmarks" / "fuzzing").glob("*.py")])
        code = files.sha256(b"".join(name.read_bytes() for name in names))
        known = json.loads(path.read_text()) if path.is_file() else {}
        same = known.get("seed") == seed and known.get("code") == code
        self.all: dict[str, Any] = known if same else {"seed": seed, "code": code, "minutes": 0.0, "kinds": {}}

    def of(self, kind: str) -> dict[str, Any]:
        empty = {"done": 0, "exits": {}, "most_s": 0.0, "most_mb": 0, "work_s": 0.0, "failed": []}
        found: dict[str, Any] = self.all["kinds"].setdefault(kind, empty)
        return found

    def add(self, tried: Tried) -> None:
        known = self.of(tried.kind)
        known["exits"] = dict(Counter(known["exits"]) + Counter({str(tried.code): 1}))
        known["most_s"] = round(max(known["most_s"], tried.seconds), 2)
        known["most_mb"] = max(known["most_mb"], tried.kb >> 10)
        known["work_s"] = round(known["work_s"] + tried.seconds, 2)
        if tried.why is not None:
            known["failed"].append({"number": tried.number, "why": tried.why})

    def block_done(self, counts: Mapping[str, int], minutes: float) -> None:
        for kind, count in counts.items():
            self.of(kind)["done"] += count
        self.all["minutes"] = round(self.all["minutes"] + minutes, 2)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(self._path, json.dumps(self.all, indent=1) + "\n")

    def show(self) -> int:
        """Print the table; how many failed."""
        print(
            f"{'kind':10}{'inputs':>8}{'exit 0':>8}{'2':>7}{'3':>7}{'4':>7}{'other':>7}{'most s':>8}{'MB':>6}  failed"
        )
        total = failed = 0
        for kind, known in self.all["kinds"].items():
            exits = Counter(known["exits"])
            named = [exits.pop(code, 0) for code in "0234"]
            numbers = "".join(f"{number:>7}" for number in named[1:])
            print(
                f"{kind:10}{known['done']:>8}{named[0]:>8}{numbers}{sum(exits.values()):>7}{known['most_s']:>8}"
                f"{known['most_mb']:>6}  {len(known['failed'])}"
            )
            total, failed = total + known["done"], failed + len(known["failed"])
        print(f"seed {self.all['seed']}: {total} inputs in {self.all['minutes']:.1f} min, {failed} failed")
        for kind, known in self.all["kinds"].items():
            for each in known["failed"][:20]:
                print(f"  {kind} {each['number']}: {each['why']}")
        return failed


def fuzz(pool: Pool, inputs: int, only: list[str], minutes: float, results: Results) -> None:
    """Try so many inputs, those before them included; begin nothing more after so many minutes."""
    warm_up(pool.made, pool.scratch)
    share, more = divmod(inputs, len(only))
    wanted = {kind: share + (index < more) for index, kind in enumerate(only)}
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        block = []
        for kind in only:
            done = results.of(kind)["done"]
            if done < wanted[kind]:
                block.append((kind, list(range(done, min(done + BLOCK, wanted[kind])))))
        if not block:
            break
        begun = time.monotonic()
        for tried in pool.try_all(block):
            results.add(tried)
            if tried.why is not None:
                print(f"FAILED {tried.kind} {tried.number}: {tried.why}", flush=True)
        results.block_done({kind: len(numbers) for kind, numbers in block}, (time.monotonic() - begun) / 60)


def warm_up(made: Path, scratch: Path) -> None:
    """Import here what commands import, once: the children have it then."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder, Path(os.devnull).open("w") as nowhere:
        shutil.copytree(made, folder, dirs_exist_ok=True)
        before = Path.cwd()
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                for argv in WARM:
                    if (code := run(argv)) != 0:
                        sys.exit(f"edgenas {' '.join(argv)}: exit code {code} of what is valid")
        finally:
            os.chdir(before)
    gc.collect()
    gc.freeze()  # what is never looked at again is not copied for each child


WARM = [
    ["predict", "bundle", "images/grey.png"], ["sign", "bundle"], ["table", "show", seeds.TABLE, "--no-picture"],
    ["export", "bundle", "--format", "c-array", "out"], ["study", "show", seeds.STUDY], ["pareto", seeds.STUDY],
    ["data", "check", "data.npz", "--input", "8x8x1", "--no-pace"], ["device", "show", "board"], ["key", "list"],
    ["table", "import", "theirs.yaml", "--device", "note", "--precision", "float32", "--dry-run"],
]  # fmt: skip


@contextlib.contextmanager
def prepared() -> Iterator[tuple[Path, Path]]:
    """A folder in memory, where there is one, with the seeds in it: (scratch, seeds)."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="edgenas-fuzz-", dir=memory if os.access(memory, os.W_OK) else None
    ) as name:
        made = Path(name) / "seeds"
        seeds.make(made)
        yield Path(name), made


def show_one(seed: int, kind: str, number: int) -> None:
    """Try one input in this process, so that what it says is seen."""
    with prepared() as (scratch, made):
        warm_up(made, scratch)
        os.chdir(made)
        os.environ.update(HOME=str(made), XDG_CONFIG_HOME=f"{made}/config", EDGENAS_DEBUG="1")
        code = try_here(kind, seed, number)
        print(f"exit code {code} of {Path('argv.json').read_text()[:1000]}")
        os.chdir(ROOT)


def main(argv: list[str] | None = None, out: Path = OUT) -> int:
    """The command; how many inputs failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--only", choices=KINDS, action="append")
    parser.add_argument("--number", type=int, help="of the one input to try")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=out)
    options = parser.parse_args(argv)
    only = options.only or list(KINDS)
    if options.number is not None:
        show_one(options.seed, only[0], options.number)
        return 0
    results = Results(options.out.absolute(), options.seed)
    with prepared() as (scratch, made):
        fuzz(Pool(made, scratch, options.seed), options.inputs, only, options.minutes, results)
    return results.show()


if __name__ == "__main__":
    sys.exit(min(1, main()))
