"""Profiles of real devices while things go wrong: no wrong number enters a table."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import psutil
import pytest

from edgenas.architecture import Architecture
from edgenas.device import Device, Runtime
from edgenas.errors import DeviceError
from edgenas.latency.memory import memory_of_codes
from edgenas.latency.profiling.checking import check_table
from edgenas.latency.profiling.measuring import REFERENCE
from edgenas.latency.profiling.planning import Plan
from edgenas.latency.profiling.profiler import EMPTY, profile
from edgenas.latency.table import LatencyTable
from edgenas.model import MODELS, ConversionPool
from edgenas.space import MobileSpace
from tests.board import Board

Make = Callable[..., Board]
Figures = Callable[[str, object], None]
SPACE = MobileSpace("tiny", (28, 28, 1), 10)
# Put into a board's environment: its runtime says the same of itself, but runs without XNNPACK; with a line `SIZE = N`
# before it, only models of that many bytes.
WITHOUT_XNNPACK = """
import os

try:
    from ai_edge_litert import interpreter
except ImportError:
    pass
else:
    begin = interpreter.Interpreter.__init__

    def without(self, *arguments, **options):
        kind = interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        size = os.path.getsize(options.get("model_path") or os.devnull)
        if globals().get("SIZE", size) == size:
            options["experimental_op_resolver_type"] = kind
        begin(self, *arguments, **options)

    interpreter.Interpreter.__init__ = without
"""


def make_plan() -> Plan:
    """26 networks of three blocks each, of few kinds: 17 layers make them all."""
    rng = np.random.default_rng(0)
    networks: dict[Architecture, None] = {}
    while len(networks) < 26:
        values = {name: options[0] for name, options in SPACE.choices.items()} | {"width": 1.0, "stem_stride": 2}
        for stage in (1, 2, 3):
            values[f"stage{stage}_block1_kernel"] = (3, 5)[rng.integers(2)]
            values[f"stage{stage}_block1_expansion"] = (1, 3)[rng.integers(2)]
        networks[SPACE.decode(values)] = None
    found = list(networks)
    layers = tuple(dict.fromkeys(layer for network in found for layer in network.layers()))
    return Plan(layers, tuple(found[:8]), tuple(found[8:20]), tuple(found[20:]), found[0])


PLAN = make_plan()


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder in which everything of the small plan is converted."""
    folder = tmp_path_factory.mktemp("project")
    with contextlib.chdir(folder):
        with ConversionPool(MODELS, "int8") as pool:
            wait([future for _, future in pool.submit([*PLAN.layers, *PLAN.networks, EMPTY]) if future is not None])
        with ConversionPool(MODELS, "float32") as pool:
            pool.path(REFERENCE)
    return folder


@pytest.fixture
def project(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of the test's own that shares the converted files."""
    (tmp_path / ".edgenas").mkdir()
    (tmp_path / ".edgenas" / "models").symlink_to(converted / ".edgenas" / "models")
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def here(project: Path) -> Device:
    """This machine as a device."""
    return Device("here", "local:", folder=str(project / "work"))


def shares(table: LatencyTable) -> dict[str, float]:
    """Times of layers and whole networks over the reference's: the whole machine may be faster or slower now."""
    assert table.certificate is not None
    times_us = {str(layer): entry.us for layer, entry in table.entries.items()}
    times_us |= {network.notation: 1000 * network.truth_ms for network in table.certificate.networks}
    return {key: us / table.reference[1] for key, us in times_us.items()}


def strays(table: LatencyTable, *quiet: LatencyTable) -> dict[str, float]:
    """What matters in a table, over the nearest of what quiet measurements found: 1 is right."""
    known = [shares(each) for each in quiet]
    found = {key: share for key, share in shares(table).items() if known[0][key] > 0.02}
    ranges = {key: [each[key] for each in known] for key in found}
    return {key: float(share / np.clip(share, min(ranges[key]), max(ranges[key]))) for key, share in found.items()}


def on(board: Board, name: str = "board") -> Device:
    return board.device(name, runtime=Runtime(python=sys.executable))


@pytest.fixture(scope="module")
def quiet(converted: Path) -> LatencyTable:
    """The small plan's table, of this machine left alone."""
    with contextlib.chdir(converted):
        return profile(here(converted), SPACE, "int8", plan=PLAN)


def right(table: LatencyTable, quiet: LatencyTable, figures: Figures) -> None:
    """Assert that its numbers are what a quiet measurement finds, before or now.

    A shared machine moves some layers by a quarter within minutes; a process that lost its core loses far more than
    half as much again.
    """
    again = profile(here(Path.cwd()), SPACE, "int8", plan=PLAN)
    ratios = strays(table, quiet, again)
    off = np.array([max(ratio, 1 / ratio) - 1 for ratio in ratios.values()])
    figures("numbers within 15% of a quiet measurement", f"{(off <= 0.15).sum()} of {len(off)}")
    figures("the farthest", f"{off.max():.1%}")
    assert off.max() < 0.5, ratios
    assert (off > 0.15).mean() <= 0.25, ratios


def test_a_quiet_profile(quiet: LatencyTable, figures: Figures):
    summary = quiet.certificate_summary()
    assert summary is not None and summary["networks"] == 6
    for name in ("within_5_percent", "within_10_percent", "mape", "noise_floor", "spearman", "doubt"):
        figures(name, summary[name])
    figures("interval of 90%", f"x {quiet.interval_factor(0.9):.3f}")
    figures("seconds", quiet.provenance["wall_s"])
    assert quiet.source == "measured" and set(quiet.entries) == set(PLAN.layers)
    assert all((entry.cold_us or 0) >= entry.us for entry in quiet.entries.values())
    assert quiet.identity.kernel == os.uname().release
    assert 0 < summary["noise_floor"] < 0.25
    assert summary["within_10_percent"] >= 1 / 2


@contextlib.contextmanager
def at_work(processes: int) -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback that lets other processes take core 0 once something was measured."""
    busy: list[subprocess.Popen[bytes]] = []

    def progress(what: str, done: int, total: int) -> None:
        if what == "measuring" and done and not busy:
            spin = ["taskset", "-c", "0", sys.executable, "-c", "while True: pass"]
            busy.extend(subprocess.Popen(spin) for _ in range(processes))

    try:
        yield progress
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.parametrize("processes", [1, 8])
def test_another_process_that_takes_the_cores_spoils_no_number(
    project: Path,
    quiet: LatencyTable,
    figures: Figures,
    processes: int,
):
    device = dataclasses.replace(here(project), runtime=Runtime(cores=(0,)))  # elsewhere it might find a core free
    try:
        with at_work(processes) as progress:
            table = profile(device, SPACE, "int8", plan=PLAN, progress=progress)
        figures("beside them", "it was measured")
    except DeviceError as error:
        figures("beside them", str(error))
        assert "too unsteady to measure" in str(error)
        assert "lost their core to another process" in str(error)
        table = profile(device, SPACE, "int8", plan=PLAN)  # in peace the same command ends what was begun
        assert table.provenance["sessions"] == 2
    right(table, quiet, figures)


def test_a_device_killed_and_restarted_goes_on(
    project: Path,
    quiet: LatencyTable,
    make_board: Make,
    figures: Figures,
):
    board = make_board()

    def cut(what: str, done: int, total: int) -> None:
        if what == "measuring" and done:
            with contextlib.suppress(AssertionError):  # it is dead already
                board.kill()

    with pytest.raises(DeviceError):
        profile(on(board), SPACE, "int8", plan=PLAN, progress=cut)
    board.start()
    table = profile(on(board), SPACE, "int8", plan=PLAN)
    assert table.provenance["sessions"] == 2
    right(table, quiet, figures)


def test_a_device_with_256_mb(
    project: Path,
    quiet: LatencyTable,
    make_board: Make,
    figures: Figures,
):
    parent = Path("/sys/fs/cgroup/memory")
    if os.getuid() != 0 or not (parent / "memory.limit_in_bytes").exists():
        pytest.skip("not measured: needs root and memory control groups, version 1")
    group = parent / f"edgenas-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(256 << 20))
        table = profile(on(make_board(cgroup=group)), SPACE, "int8", plan=PLAN)
        assert table.identity.memory_mb == 256
        right(table, quiet, figures)
        figures("most memory used, MB", int((group / "memory.max_usage_in_bytes").read_text()) >> 20)
    finally:
        for line in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(int(line)).kill()
                psutil.Process(int(line)).wait(5)
        group.rmdir()


def test_one_of_four_siblings_is_odd(
    project: Path,
    quiet: LatencyTable,
    make_board: Make,
    tmp_path: Path,
    figures: Figures,
):
    """It says the same of itself, but its runtime runs the reference model without XNNPACK."""
    with ConversionPool(MODELS, "int8") as pool:
        size_bytes = pool.path(PLAN.reference).stat().st_size
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "sitecustomize.py").write_text(f"SIZE = {size_bytes}\n{WITHOUT_XNNPACK}")
    odd = make_board(environment={"PYTHONPATH": str(tmp_path / "odd")})
    devices = [on(odd, "b"), *(on(make_board(), name) for name in ("a", "c", "d"))]
    table = profile(devices, SPACE, "int8", plan=PLAN)
    figures("stayed", ", ".join(table.provenance["devices"]))
    for name, why in table.provenance["left_out"].items():
        figures(f"left out: {name}", why)
    assert "b" in table.provenance["left_out"], "though it comes first"
    right(table, quiet, figures)


def test_whether_a_table_still_holds(
    project: Path,
    quiet: LatencyTable,
    make_board: Make,
    tmp_path: Path,
    figures: Figures,
):
    found = check_table(here(project), quiet)
    figures("a table of the last minutes", "fresh" if found.fresh else "; ".join(found.reasons))
    figures("networks now / then", f"{found.networks:.3f}")
    figures("nine in ten layers within", f"{found.layers:.1%}")
    assert found.changes == ()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "sitecustomize.py").write_text(WITHOUT_XNNPACK)
    found = check_table(on(make_board(environment={"PYTHONPATH": str(tmp_path / "odd")}), "here"), quiet)
    figures("without XNNPACK", "; ".join(found.reasons))
    assert not found.fresh


def test_the_memory_of_a_hundred_thousand_codes(figures: Figures):
    space = MobileSpace("standard", (96, 96, 3), 10)
    codes = space.sample(np.random.default_rng(0), 100_000)
    memory_of_codes(space, codes[:1], "int8")  # finds out about the layers, once
    start = time.process_time()
    memory_of_codes(space, codes, "int8")
    took_s = time.process_time() - start
    figures("seconds", round(took_s, 2))
    assert took_s < 1
