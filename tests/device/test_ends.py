"""How an agent ends: with its connection, with its link, by a signal; and that what it had begun ends with it."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgenas.device import Agent, Connection, connect, open_agent
from edgenas.errors import DeviceError
from tests.board import Board, Proxy
from tests.device.conftest import gone
from tests.waiting import until


class Busy:
    """An agent in the middle of a long operation, and the child that does it."""

    def __init__(self, connection: Connection, model: Path) -> None:
        self.agent: Agent = open_agent(connection)
        self.pid = self.agent.info.pid
        self.caught: list[BaseException] = []
        working = threading.Event()

        def work() -> None:
            try:
                told = {"on_progress": lambda line: working.set()}
                self.agent.call("single", timeout_s=600, model=str(model), runs=10**12, **told)  # type: ignore[arg-type]
            except (DeviceError, OSError, ValueError) as error:  # or its pipe is closed while this thread reads
                self.caught.append(error)

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()
        until(working.is_set, "the child works")
        self.child = psutil.Process(self.pid).children()[0].pid


@pytest.fixture
def busy(local: Connection, models: Path) -> Iterator[Busy]:
    busy = Busy(local, models / "float32.tflite")
    yield busy
    busy.agent.close()
    busy.thread.join()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(busy.child).kill()  # of a test that failed


def test_the_agent_ends_with_its_connection_in_the_middle_of_work(busy: Busy):
    busy.agent.close()
    until(lambda: gone(busy.pid) and gone(busy.child))


def test_a_killed_agent_takes_its_child_along_and_is_reported(busy: Busy):
    psutil.Process(busy.child).suspend()  # so it does not end by itself, for want of somebody to tell
    psutil.Process(busy.pid).kill()
    busy.thread.join()
    assert "the agent ended while asked to single" in str(busy.caught[0])
    until(lambda: gone(busy.child))
    with pytest.raises(DeviceError, match="the agent ended"):
        busy.agent.call("status")


def test_a_cut_link_ends_the_agent(board: Board, tmp_path: Path):
    with (
        Proxy(board.port) as proxy,
        connect(board.device(port=proxy.port, folder=str(tmp_path / "work"))) as connection,
    ):
        agent = open_agent(connection)
        pid = agent.info.pid
        assert psutil.pid_exists(pid)
        proxy.cut()
        with pytest.raises(DeviceError, match=r"board: .*(link broke|agent ended)"):
            agent.call("status")
        until(lambda: gone(pid))
