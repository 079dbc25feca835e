"""Profiling real devices while things go wrong: no wrong number enters a table."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from edgenas.device import Device, Runtime
from edgenas.errors import CheckFailedError, DeviceError
from edgenas.latency.profiling import adopting, rounds, siblings
from edgenas.latency.profiling.adopting import find_donor
from edgenas.latency.profiling.planning import Plan, plan_profile
from edgenas.latency.profiling.profiler import profile, table_name
from edgenas.latency.table import LatencyTable
from edgenas.model import MODELS, ConversionPool
from tests.board import Board
from tests.latency.conftest import SPACE, WITHOUT_XNNPACK, Peace, certificate

pytestmark = pytest.mark.slow

Make = Callable[..., Board]
Right = Callable[[LatencyTable], None]


def on(board: Board, name: str = "board") -> Device:
    return board.device(name, runtime=Runtime(python=sys.executable))


def local(project: Path) -> Device:
    return Device("here", "local:", folder=str(project / "work"))


def journal(project: Path) -> dict[str, float]:
    """What a session that was broken off has kept: key -> ratio."""
    (path,) = (project / ".edgenas" / "profiles").glob("*/measured.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["key"]: row["value"] for line in lines if line["event"] == "batch" for row in line["lines"]}


def shares(table: LatencyTable) -> dict[str, float]:
    """Times of layers and whole networks over the reference's: the whole machine may be faster or slower now."""
    assert table.certificate is not None
    times_us = {str(layer): entry.us for layer, entry in table.entries.items()}
    times_us |= {network.notation: 1000 * network.truth_ms for network in table.certificate.networks}
    return {key: us / table.reference[1] for key, us in times_us.items()}


def hold(peace: Peace, read: Callable[[LatencyTable], dict[str, float]], found: dict[str, float]) -> None:
    """Assert that numbers are what a quiet measurement finds, then or now.

    A shared machine moves some layers by a quarter within minutes. A process that lost its core loses far more than
    half as much again.
    """
    first = shares(peace.tables[0])
    weighty = {key: share for key, share in found.items() if first[key] > 0.02}
    odd = peace.strays(read, weighty)
    assert len(odd) <= len(weighty) / 4, odd
    assert all(1 / 1.5 < ratio < 1.5 for ratio in odd.values()), odd


@pytest.fixture
def right(peace: Peace) -> Right:
    """Asserts that every number of a table is what a quiet measurement finds."""

    def check(table: LatencyTable) -> None:
        assert set(shares(table)) == set(shares(peace.tables[0]))
        hold(peace, shares, shares(table))

    return check


def about_right(table: LatencyTable, peace: Peace) -> None:
    """The same of boards that measured at once: here they share a machine and disturb each other, so most numbers."""
    first = shares(peace.tables[0])
    assert set(shares(table)) == set(first)
    weighty = {key: share for key, share in shares(table).items() if first[key] > 0.02}
    assert len(peace.strays(shares, weighty)) < len(weighty) / 2


def test_a_quiet_profile(quiet: LatencyTable, peace: Peace, small_plan: Plan):
    def good(summary: dict[str, float]) -> bool:  # a busy machine has a noise floor of 10%
        return summary["within_10_percent"] >= 1 / 2 and 0 < summary["noise_floor"] < 0.25

    assert quiet.source == "measured"
    assert len(quiet.entries) == len(small_plan.layers)
    assert all((entry.cold_us or 0) >= entry.us for entry in quiet.entries.values())
    assert quiet.identity.kernel == os.uname().release
    summary = quiet.certificate_summary()
    assert summary is not None
    assert summary["networks"] == 6
    if not good(summary):  # the machine changed in the middle
        summary = peace.measure().certificate_summary()
    assert summary is not None and good(summary)
    low, high = quiet.interval_ms(small_plan.certificate)
    assert (low < high).all()


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
        assert busy
        for process in busy:
            process.kill()
            process.wait()


def with_overhead(table: LatencyTable) -> dict[str, float]:
    """What was measured of each layer, relative to the reference: with the time of a model that does nothing."""
    return {str(layer): (entry.us + table.empty_us) / table.reference[1] for layer, entry in table.entries.items()}


@pytest.mark.parametrize("processes", [1, 8])
def test_another_process_that_takes_the_cores_spoils_no_number(
    project: Path, small_plan: Plan, peace: Peace, right: Right, monkeypatch: pytest.MonkeyPatch, processes: int
):
    monkeypatch.setattr(rounds, "LONGEST_WAIT_S", 0.2)
    device = dataclasses.replace(local(project), runtime=Runtime(cores=(0,)))  # elsewhere it might find a core free
    try:
        with at_work(processes) as progress:
            right(profile(device, SPACE, "int8", plan=small_plan, progress=progress))
    except DeviceError as error:
        assert "too unsteady to measure" in str(error)
        assert "lost their core to another process" in str(error)
        kept = journal(project)
        assert kept
        hold(peace, with_overhead, {key: ratio for key, ratio in kept.items() if key in with_overhead(peace.tables[0])})
        # In peace the same command ends what was begun.
        right(profile(device, SPACE, "int8", plan=small_plan))


def test_a_device_killed_and_restarted_goes_on(project: Path, small_plan: Plan, right: Right, make_board: Make):
    board = make_board()

    def cut(what: str, done: int, total: int) -> None:
        if what == "measuring" and done:
            board.kill()

    with pytest.raises(DeviceError):
        profile(on(board), SPACE, "int8", plan=small_plan, progress=cut)
    before = journal(project)
    assert len(before) >= 10
    board.start()
    table = profile(on(board), SPACE, "int8", plan=small_plan)
    right(table)
    assert table.provenance["sessions"] == 2
    assert not (project / ".edgenas" / "profiles").exists() or not list((project / ".edgenas" / "profiles").iterdir())


def test_a_device_with_little_space_keeps_few_models(
    project: Path, small_plan: Plan, right: Right, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edgenas.latency.profiling.profiler.BATCH", 8)
    monkeypatch.setattr("edgenas.latency.profiling.bench.ROOMY_KB", 1 << 50)
    most = 0

    def count(what: str, done: int, total: int) -> None:
        nonlocal most
        if what == "measuring":  # told when a batch has ended
            most = max(most, len(list((project / "work" / "bench").glob("*.tflite"))))

    right(profile(local(project), SPACE, "int8", plan=small_plan, progress=count))
    assert 1 <= most <= 3, "the reference, and at most what the end of a batch leaves"
    assert not (project / "work" / "bench").exists()


def test_the_agent_killed_by_the_system_is_one_clear_error(project: Path, small_plan: Plan):
    def kill(what: str, done: int, total: int) -> None:
        if what == "measuring" and done:
            for child in psutil.Process().children(recursive=True):
                if any("agent-" in word for word in child.cmdline()):
                    child.kill()

    with pytest.raises(DeviceError, match="the agent ended while asked to"):
        profile(local(project), SPACE, "int8", plan=small_plan, progress=kill)


def test_a_device_with_256_mb(project: Path, small_plan: Plan, right: Right, make_board: Make):
    parent = Path("/sys/fs/cgroup/memory")
    if os.getuid() != 0 or not (parent / "memory.limit_in_bytes").exists():
        pytest.skip("needs root and memory control groups, version 1")
    group = parent / f"edgenas-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(256 << 20))
        table = profile(on(make_board(cgroup=group)), SPACE, "int8", plan=small_plan)
        right(table)
        assert table.identity.memory_mb == 256
    finally:
        for line in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(int(line)).kill()
                psutil.Process(int(line)).wait(5)
        group.rmdir()


def test_a_layer_that_does_not_run_is_named_and_the_others_are_kept(
    project: Path, converted: Path, small_plan: Plan, right: Right
):
    """Its file is damaged; once it is made anew, the same call goes on."""
    models = project / ".edgenas" / "models"
    models.unlink()
    shutil.copytree(converted / ".edgenas" / "models", models)
    layer = small_plan.layers[3]
    with ConversionPool(MODELS, "int8") as pool:
        path = pool.path(layer)
    path.write_bytes(b"no model")
    with pytest.raises(CheckFailedError, match=rf"{re.escape(str(layer))} does not run on the device: .*valid"):
        profile(local(project), SPACE, "int8", plan=small_plan)
    kept = journal(project)
    assert str(layer) not in kept and str(small_plan.layers[2]) in kept
    path.unlink()
    table = profile(local(project), SPACE, "int8", plan=small_plan)
    right(table)
    assert table.provenance["sessions"] == 2


def test_what_another_table_knows_is_not_measured_again(
    project: Path, small_plan: Plan, right: Right, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(adopting, "LEAST_LAYERS", 10)
    monkeypatch.setattr(adopting, "PROBES", 5)
    # Five small layers wander more than twelve of every size; twice the truth (below) is still told.
    monkeypatch.setattr(adopting, "MOST_SHIFT", 0.3)
    monkeypatch.setattr(adopting, "MOST_SPREAD", 0.4)
    name, tables = table_name(local(project), SPACE, "int8", 1), project / "latency_tables"
    first = profile(local(project), SPACE, "int8", plan=small_plan)
    # Its own certificate is of six networks alone: on a busy machine it may fail, and then nothing is taken from it.
    first = dataclasses.replace(first, certificate=certificate([0.01] * 10))
    first.save(tables / f"{name}.json")
    assert find_donor(first.identity, small_plan.layers, (), own=name) is None, "who makes it again wants other figures"
    (tables / f"{name}.json").rename(tables / "earlier.json")
    other = dataclasses.replace(small_plan, reference=small_plan.networks[3])
    table = profile(local(project), SPACE, "int8", plan=other)
    assert table.provenance["adopted_from"] == "earlier"
    assert table.provenance["adopted"] == len(small_plan.layers) - 5
    assert table.reference[0] == str(other.reference)
    # All but the probes are what they were, at the speed that the first reference has now.
    us = [(first.entries[layer].us, entry.us) for layer, entry in table.entries.items()]
    now = statistics.median(after / before for before, after in us)
    anew = [after for before, after in us if abs(after - now * before) > 0.02 + 1e-3 * after]  # tables round
    assert len(anew) <= 5, us
    right(dataclasses.replace(table, reference=(first.reference[0], first.reference[1] * now)))

    # The same table, but as if the device had been another one: its probes give it away.
    moved = {x: dataclasses.replace(entry, us=entry.us * 2) for x, entry in first.entries.items()}
    dataclasses.replace(first, entries=moved).save(tables / "earlier.json")
    (tables / f"{name}.json").unlink()
    table = profile(local(project), SPACE, "int8", plan=other)
    assert (table.provenance["adopted"], table.provenance["adopted_from"]) == (0, None)


# Several devices


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boards that are one machine and measure at once differ by more than boards of one kind; odd ones by far more."""
    monkeypatch.setattr(siblings, "MOST_SHIFT", 0.3)
    monkeypatch.setattr(siblings, "MOST_SPREAD", 0.5)


@pytest.mark.usefixtures("noisy")
def test_siblings_share_the_work(project: Path, small_plan: Plan, peace: Peace, make_board: Make):
    devices = [on(make_board(), name) for name in ("a", "b")]
    table = profile(devices, SPACE, "int8", plan=small_plan)
    about_right(table, peace)
    assert table.provenance["devices"] == ["a", "b"]
    for device in devices:
        own = LatencyTable.load(table_name(device, SPACE, "int8", 1))
        assert own.identity.device == device.name
        assert own.entries == table.entries


@pytest.mark.usefixtures("noisy")
def test_what_a_sibling_that_dies_had_in_hand_goes_to_the_others(
    project: Path, small_plan: Plan, peace: Peace, make_board: Make, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edgenas.latency.profiling.profiler.BATCH", 8)
    boards = [make_board(), make_board()]

    def cut(what: str, done: int, total: int) -> None:
        if what == "measuring" and done > 20:
            with contextlib.suppress(AssertionError):  # it is dead already
                boards[1].kill()

    devices = [on(board, name) for board, name in zip(boards, ("a", "b"), strict=True)]
    table = profile(devices, SPACE, "int8", plan=small_plan, progress=cut)
    about_right(table, peace)
    assert table.provenance["devices"] == ["a"]
    assert list(table.provenance["left_out"]) == ["b"]
    boards[1].start()


@pytest.mark.usefixtures("noisy")
def test_a_board_that_does_not_behave_like_its_siblings_is_left_out(
    project: Path, small_plan: Plan, peace: Peace, make_board: Make, tmp_path: Path
):
    """It says the same of itself, but its runtime runs the reference model without XNNPACK."""
    with ConversionPool(MODELS, "int8") as pool:
        size_bytes = pool.path(small_plan.reference).stat().st_size
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "sitecustomize.py").write_text(f"SIZE = {size_bytes}\n{WITHOUT_XNNPACK}")
    odd = make_board(environment={"PYTHONPATH": str(tmp_path / "odd")})
    unreachable = dataclasses.replace(on(odd, "d"), url="ssh://root@127.0.0.1:1")
    devices = [on(odd, "b"), on(make_board(), "a"), unreachable, on(make_board(), "c")]
    table = profile(devices, SPACE, "int8", plan=small_plan)
    about_right(table, peace)
    assert table.provenance["devices"] == ["a", "c"], "two against one, though that one comes first"
    assert "does not behave like a" in table.provenance["left_out"]["b"]
    assert "cannot be reached" in table.provenance["left_out"]["d"]
    assert not (project / "latency_tables" / f"{table_name(devices[0], SPACE, 'int8', 1)}.json").exists()


def test_another_kind_of_device_is_left_out(project: Path, small_plan: Plan, make_board: Make):
    """Kept on other cores its numbers would be others."""
    other = make_board().device("b", runtime=Runtime(python=sys.executable, cores=(0,)))
    table = profile([on(make_board(), "a"), other], SPACE, "int8", plan=small_plan)
    assert table.provenance["devices"] == ["a"]
    assert "another kind of device than a (cores: " in table.provenance["left_out"]["b"]


def test_one_device_has_one_profiler(project: Path, small_plan: Plan, make_board: Make):
    board = make_board()
    refused: list[str] = []

    def come_meanwhile(what: str, done: int, total: int) -> None:
        if what == "measuring" and not refused:
            with pytest.raises(DeviceError) as caught:
                profile(on(board), SPACE, "int8", threads=2, plan=small_plan)
            refused.append(str(caught.value))

    profile(on(board), SPACE, "int8", plan=small_plan, progress=come_meanwhile)
    assert "is being measured by" in refused[0]
    assert f"@{os.uname().nodename}" in refused[0]


def test_a_plan_tells_layers_from_networks_and_keeps_the_sets_apart():
    plan = plan_profile(SPACE)
    assert set(SPACE.layers()) <= set(plan.layers)
    assert len(set(plan.networks)) == len(plan.networks) == 150
    assert plan_profile(SPACE) == plan
