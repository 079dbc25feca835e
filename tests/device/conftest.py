"""This machine as a device, reached in each way, and models for it."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgenas.device import Agent, Connection, Device, connect
from edgenas.device.agent.main import answer, operations
from tests.board import Board
from tests.device import made as layers
from tests.made import FLOAT32, INT8


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with Board(tmp_path_factory.mktemp("board")) as board:
        yield board


def reach(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    """This machine as a device of a kind, with a work folder of the test's own."""
    folder = str(tmp_path / "work")
    if kind == "local":
        return Device("here", "local:", folder=folder)
    lab = {"ssh": "board", "adb": "phone", "adb-android": "android_phone"}[kind]
    made: Device = request.getfixturevalue(lab).device(folder=folder)
    return made


@pytest.fixture(params=["local", "ssh"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    """The same device, reached in each way that an agent can be started in."""
    return reach(request.param, request, tmp_path)


@pytest.fixture
def connection(device: Device) -> Iterator[Connection]:
    with connect(device) as connection:
        yield connection


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Connection]:
    """A connection to this machine, whose Python has a runtime."""
    with connect(Device("here", "local:", folder=str(tmp_path / "work"))) as connection:
        yield connection


class Here:
    """An agent that is no process of its own: it answers in this one. A connection's `start` in its place."""

    def __init__(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._table = operations(folder, None)  # type: ignore[arg-type]
        self._said = b""

    def send(self, data: bytes) -> None:
        for line in filter(None, data.decode().split("\n")):
            self._say(answer(self._table, line, self._say))

    def _say(self, what: dict[str, object]) -> None:
        self._said += json.dumps(what).encode() + b"\n"

    def receive(self, timeout_s: float) -> bytes:
        said, self._said = self._said, b""
        return said

    def errors(self) -> str:
        return ""

    def close(self) -> None:
        pass


@pytest.fixture
def here(local: Connection) -> Agent:
    """The agent on this machine, in this process."""
    return Agent(local, Here(local.folder))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with small models of three sizes: float32.tflite, int8.tflite (8x8x1 in, 10 out) and layer.tflite."""
    folder = tmp_path / "models"
    folder.mkdir()
    for path in (FLOAT32, INT8):
        shutil.copy(path, folder)
    shutil.copy(layers.path_of("k3_relu6", "int8"), folder / "layer.tflite")
    return folder


@pytest.fixture
def nothing_hangs() -> Iterator[None]:
    """For tests of what would be waited for for ever."""

    def give_up(*_: Any) -> None:
        raise AssertionError("the host is held")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(100)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def gone(pid: int) -> bool:
    """Whether a process of this machine has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
