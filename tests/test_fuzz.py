"""A short row of spoiled inputs (benchmarks/fuzz.py), and that it notices what it looks for."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import fuzz
from benchmarks.fuzzing.pool import Tried
from tests.made import BUNDLE

ROOT = Path(__file__).parents[1]
TRIED = ["tables", "bundles", "npz", "toml", "databases", "arguments", "answers", "images", "folders", "tflite"]
# A product that does what the input's number says, all in one child until it dies.
FAULTY = """
import os, signal, sys
from pathlib import Path
from benchmarks.fuzzing import pool as fuzz

names, folder = sys.argv[1].split(), Path(sys.argv[2])

def product():
    what = sys.argv[1]
    if what == "raises": raise KeyError("a fault of ours")
    if what == "ends": sys.exit(1)
    if what == "works":
        while True: pass
    if what == "waits": signal.pause()
    if what == "grows": b"x" * (300 << 20)
    if what == "talks": sys.stderr.write("x" * 70_000)
    if what == "dies": os.kill(os.getpid(), signal.SIGSEGV)
    sys.exit({"refuses": 2, "fails": 4}.get(what, 0))

def spoil(rng):
    if (what := names[int(Path.cwd().name.rpartition("-")[2])]) == "breaks": raise ValueError("of the harness")
    return [["fine"], [what]]

fuzz.edgenas, fuzz.KINDS["odd"] = product, spoil
fuzz.MOST_S, fuzz.BLOCKED_S, fuzz.MOST_KB = 2.0, 2.0, 300 << 10
(folder / "seeds").mkdir()
pool = fuzz.Pool(folder / "seeds", folder, 7, 1, folder / "kept")
for tried in pool.try_all([("odd", list(range(len(names))))]):
    print(tried.number, tried.code, tried.why, sep="|")
"""


def test_what_goes_wrong_is_noticed_and_kept(tmp_path: Path):
    expected = {
        "fine": (0, None), "grows": (0, "MB of memory"), "refuses": (2, None), "raises": (1, "exit 1"),
        "works": (-9, "more than 2 s of work"), "fails": (4, None), "talks": (0, "68 kB on stderr"),
        "dies": (-11, "killed by SIGSEGV"), "ends": (1, "exit 1"), "breaks": (99, "the harness itself failed"),
        "waits": (-9, "waits for ever (2 s without work)"),
    }  # fmt: skip
    argv = [sys.executable, "-c", FAULTY, " ".join(expected), str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    told = [line.split("|") for line in done.stdout.splitlines()]
    assert [int(number) for number, _, _ in told] == list(range(len(expected)))
    for (number, code, why), (name, (expected_code, expected_why)) in zip(told, expected.items(), strict=True):
        assert int(code) == expected_code and why.endswith(str(expected_why)), name
        kept = tmp_path / "kept" / f"odd-7-{number}" / "why.txt"
        assert kept.is_file() == (expected_why is not None), name
        if kept.is_file():
            again = f"python benchmarks/fuzz.py --seed 7 --only odd --number {number}"
            assert kept.read_text().splitlines()[:2] == [why, again]
    assert not list(tmp_path.glob("odd-*")), "no copy is left"


def test_spoiled_inputs_do_no_harm(tmp_path: Path):
    out = tmp_path / "fuzz.json"
    argv = [sys.executable, "benchmarks/fuzz.py", "--seed", "12", "--inputs", str(15 * len(TRIED)), "--out", str(out)]
    for kind in TRIED:
        argv += ["--only", kind]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = json.loads(out.read_text())["kinds"]
    assert list(kinds) == TRIED
    assert all(known["done"] == sum(known["exits"].values()) == 15 for known in kinds.values())
    exits = {code for known in kinds.values() for code in known["exits"]}
    assert {"0", "2", "3", "4"} <= exits <= {"0", "2", "3", "4", "130"}


def test_it_goes_on_where_it_was(tmp_path: Path):
    path = tmp_path / "fuzz.json"
    results = fuzz.Results(path, 3)
    for number, code in enumerate((0, 2, 2)):
        results.add(Tried("npz", number, code, 0.5 * number, 2048, None))
    results.add(Tried("npz", 3, 1, 0.1, 1024, "exit 1"))
    results.block_done({"npz": 4}, 0.5)
    found = {"done": 4, "exits": {"0": 1, "2": 2, "1": 1}, "most_s": 1.0, "most_mb": 2, "work_s": 1.6}
    found["failed"] = [{"number": 3, "why": "exit 1"}]
    assert fuzz.Results(path, 3).of("npz") == found
    assert fuzz.Results(path, 4).of("npz")["done"] == 0, "another seed"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code": "x"}))
    assert fuzz.Results(path, 3).of("npz")["done"] == 0, "other code"


def test_an_input_follows_from_its_seed_and_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = {}
    for attempt, seed, number in (("a", 1, 5), ("b", 1, 5), ("c", 2, 5), ("d", 1, 6)):
        shutil.copytree(BUNDLE, tmp_path / attempt / "bundle")
        monkeypatch.chdir(tmp_path / attempt)
        argv = fuzz.KINDS["bundles"](random.Random(f"{seed} bundles {number}"))
        files = sorted(path for path in Path().rglob("*") if path.is_file())
        made[attempt] = (argv, [(str(path), path.read_bytes()) for path in files])
    assert made["a"] == made["b"]
    assert made["c"] != made["a"] != made["d"]
