"""What only real time can show: real clocks, real cores, real links. `make real-world` runs it all and prints figures.

Each test puts what it found into `figures`; all of it is written to benchmarks/results/real.json after every test, and
`--resume` leaves out what has passed. A device that is too disturbed to be measured is no failure here: "not measured".
"""

import contextlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import edgenas.files as files
from edgenas.errors import DeviceError
from tests.board import Board

# Before anything imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ["KERAS_BACKEND"] = "tensorflow"

OUT = Path(__file__).parents[1] / "results" / "real.json"
_FIGURES = pytest.StashKey[dict[str, Any]]()
Figures = Callable[[str, object], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--resume", action="store_true", help="leave out what passed before, by benchmarks/results/real.json"
    )


def _known() -> dict[str, Any]:
    known: dict[str, Any] = json.loads(OUT.read_text()) if OUT.is_file() else {}
    return known


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = _known()
    gone = known.get("tests", {}).keys() - {item.nodeid for item in items}
    if gone and config.args == ["benchmarks/real"] and not config.getoption("-k"):  # all of them: others are no more
        known["tests"] = {name: row for name, row in known["tests"].items() if name not in gone}
        files.write_atomically(OUT, json.dumps(known, indent=1) + "\n")
    if config.getoption("--resume"):
        passed = {name for name, row in _known().get("tests", {}).items() if row["outcome"] == "passed"}
        items[:] = [item for item in items if item.nodeid not in passed]


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Keeps what a test found: figures(name, value)."""
    found: dict[str, Any] = request.node.stash.setdefault(_FIGURES, {})
    return found.__setitem__


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    if call.excinfo is not None and call.excinfo.errisinstance(DeviceError) and "unsteady" in str(call.excinfo.value):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"not measured: {call.excinfo.value}")
    if call.when == "call" or report.outcome == "failed" or (call.when == "setup" and report.outcome == "skipped"):
        said = report.longrepr[2] if report.outcome == "skipped" else ""
        outcome = "not measured" if "not measured" in said else report.outcome
        row = {"outcome": outcome, "seconds": round(report.duration, 1), "figures": item.stash.get(_FIGURES, {})}
        known = _known()
        known["machine"] = {"cpu": platform.machine(), "cores": psutil.cpu_count(), "kernel": platform.release()}
        known.setdefault("tests", {})[item.nodeid] = row
        OUT.parent.mkdir(exist_ok=True)
        files.write_atomically(OUT, json.dumps(known, indent=1, default=str) + "\n")
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table."""
    tests = _known().get("tests", {})
    terminalreporter.section(f"what was found ({OUT})")
    for name, row in tests.items():
        place, _, test = name.removeprefix("benchmarks/real/").partition("::")
        words = re.sub(r"^test_", "", test).replace("_", " ")
        terminalreporter.write_line(f"{row['outcome']:>12}  {row['seconds']:7.1f} s  {place}: {words}")
        for figure, value in row["figures"].items():
            terminalreporter.write_line(f"{'':25}{figure}: {value}")


@pytest.fixture
def make_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Board]]:
    """Makes boards of a test's own."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Board:
            return stack.enter_context(Board(tmp_path_factory.mktemp("board"), **options))

        yield make
