"""The runtimes that pip brings to a board, from the package index, and what they measure there."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.device import Agent, Connection, Device, Runtime, connect, findings, open_agent, setup
from tests.board import Board
from tests.made import FLOAT32, INT8

Figures = Callable[[str, object], None]


def _problems(device: Device) -> list[tuple[str, str | None]]:
    return [(found.what, found.remedy) for found in findings(device) if found.level == "problem"]


def _measured(connection: Connection, agent: Agent, package: str) -> list[float]:
    """The fastest visit of each model, in microseconds."""
    paths = []
    for model in (FLOAT32, INT8):
        paths.append(f"{connection.folder}/{model.name}")
        connection.put(model, paths[-1])
    answer = agent.call("measure", models=paths, reference=paths[0], visits=5, runtime=package)
    assert answer["failed"] == {}
    if not all(model["visits_us"] for model in answer["models"]):
        pytest.skip("not measured: every visit was disturbed")
    return [round(min(model["visits_us"]), 2) for model in answer["models"]]


def _board(make_board: Callable[..., Board], tmp_path: Path, package: str, python: str) -> Device:
    """A board on which python3 is this one."""
    found = shutil.which(python)
    if found is None:
        pytest.skip(f"not measured: there is no {python} here")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(found)
    board = make_board(path=f"{tmp_path / 'bin'}:/usr/local/bin:/usr/bin:/bin")
    runtime = Runtime(package)  # type: ignore[arg-type]
    return board.device(folder=str(tmp_path / "work"), runtime=runtime)


def test_ai_edge_litert_by_the_board_s_own_pip(
    make_board: Callable[..., Board], tmp_path: Path, figures: Figures
) -> None:
    device = _board(make_board, tmp_path, "ai-edge-litert", "python3")
    info = setup(device, lambda _: None)
    assert (info.numpy or "").startswith("2.")
    with connect(device) as connection, open_agent(connection) as agent:
        figures("ai-edge-litert, numpy", (info.runtime("ai-edge-litert").version, info.numpy))
        figures("float32 and int8, us", _measured(connection, agent, "ai-edge-litert"))
    assert _problems(device) == []


def test_tflite_runtime_by_wheels_from_here_and_a_numpy_that_setup_mends(
    make_board: Callable[..., Board], tmp_path: Path, figures: Figures
) -> None:
    device = _board(make_board, tmp_path, "tflite-runtime", "python3.11")  # there are no wheels for a later one
    steps: list[str] = []
    info = setup(device, steps.append, offline=True)
    assert (info.numpy or "").startswith("1.")
    assert any("sending tflite_runtime" in step for step in steps)
    with connect(device) as connection, open_agent(connection) as agent:
        figures("tflite-runtime, numpy", (info.runtime("tflite-runtime").version, info.numpy))
        figures("float32 and int8, us", _measured(connection, agent, "tflite-runtime"))
        assert _problems(device) == []
        python = f"{connection.folder}/venv/bin/python"
        done = connection.run([python, "-m", "pip", "install", "-q", "numpy>=2"], timeout_s=300)
        assert done.returncode == 0, done.stderr
        ((what, remedy),) = _problems(device)
        assert "wrong one for tflite-runtime" in what
        assert remedy == "edgenas device setup board"
        assert setup(device, steps.append).runtime("tflite-runtime").version is not None, "setup mends it"
