"""A device that would hold, fill or break the host by the way to it: what commands print, files, names, SSH itself."""

import os
import signal
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgenas.device import Completed, Connection, Device, adb, limits, process, scripts
from edgenas.device.connection import home_of
from edgenas.device.process import LocalProcess
from edgenas.device.ssh import _BoundedWire, _Link, _SshProcess
from edgenas.errors import DeviceError, UnreachableError
from tests.device.conftest import reach
from tests.device.scripted import FAR, Talker
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("nothing_hangs")


@pytest.fixture(params=["local", "ssh", "adb"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    return reach(request.param, request, tmp_path)


@pytest.mark.parametrize("command", ["yes", "while :; do echo $$; done"])
def test_a_command_that_prints_without_end_is_stopped(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, command: str
):
    monkeypatch.setattr(limits, "MOST_OUTPUT_BYTES", 100_000)
    with pytest.raises(DeviceError, match=rf"the output of 'sh -c {command[:3]}.*' to have at most 100000 bytes"):
        connection.run(["sh", "-c", command], timeout_s=90)
    assert connection.run(["echo", "well"]).stdout == "well\n", "the connection goes on"


def test_of_what_a_command_complains_the_end_is_kept(connection: Connection):
    done = connection.run(["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; echo done"])
    assert done.stdout == "done\n" and done.stderr.endswith("the end\n")
    assert 1_000_000 < len(done.stderr) <= limits.MOST_ERRORS_BYTES


def test_of_what_a_process_complains_the_end_is_kept(connection: Connection):
    """It is listened to while it runs: one whose stderr nobody reads stands still."""
    started = connection.start(["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo the end >&2; echo done"])
    assert started.receive(60) == b"done\n"
    until(lambda: started.errors().endswith("x" * 1000 + "the end\n"), "all of stderr has come")
    assert len(started.errors()) <= limits.MOST_ERRORS_BYTES
    started.close()


def test_a_process_that_complains_for_ever_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(0, 10**6, 10))
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    started = LocalProcess(["sh", "-c", "yes >&2"], str(tmp_path))
    with pytest.raises(TimeoutError):
        started.receive(600)
    assert len(started.errors()) <= limits.MOST_ERRORS_BYTES
    monkeypatch.undo()
    started.close()
    assert not started.killed, "what still complains ends when nobody listens"


def test_who_complains_faster_than_it_is_heard_is_not_heard_out(monkeypatch: pytest.MonkeyPatch):
    started, heard = object.__new__(LocalProcess), []

    def read(descriptor: int, most: int) -> bytes:
        heard.append(most)
        assert sum(heard) <= 2 * limits.MOST_ERRORS_BYTES
        return b"x" * most

    started._errors, started._complaining = bytearray(), True
    started._stderr = SimpleNamespace(fileno=lambda: 9)  # type: ignore[assignment]
    monkeypatch.setattr(process, "os", SimpleNamespace(read=read))
    assert len(started.errors()) == limits.MOST_ERRORS_BYTES


def test_a_process_of_this_machine_that_reads_nothing_is_waited_for_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock = iter(range(0, 10**6, 25))
    started = LocalProcess(["sleep", "300"], str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(process, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        patch.setattr(process, "select", SimpleNamespace(select=lambda *_: ([], [], [])))
        with pytest.raises(DeviceError, match=r"^The process has read nothing for 60 s\.$"):
            started.send(b"x" * 1_000_000)
    os.kill(started._process.pid, signal.SIGKILL)
    started.close()
    with pytest.raises(DeviceError, match=r"^The process has ended: "):
        started.send(b"x")


def test_a_pipe_is_no_file(connection: Connection, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DeviceError, match=r"pipe could not be read: it is no regular file\.$"):
        connection.get(str(tmp_path / "pipe"), tmp_path / "back")
    with pytest.raises(DeviceError, match=r"zero could not be read: it is no regular file\.$"):
        connection.get("/dev/zero", tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == []


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["there", "there.part"])
def test_a_file_takes_the_place_of_a_pipe(connection: Connection, tmp_path: Path, name: str, resume: bool):
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / name)
    (tmp_path / "source").write_bytes(b"x" * 200_000)
    connection.put(tmp_path / "source", str(folder / "there"), resume=resume)
    assert (folder / "there").is_file() and (folder / "there").stat().st_size == 200_000
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_does_not_take_a_file_in(connection: Connection, tmp_path: Path, resume: bool):
    (tmp_path / "folder" / "there").mkdir(parents=True)
    (tmp_path / "source").write_text("x")
    with pytest.raises(DeviceError, match=r"there could not be written: .*(Is a directory|a folder has)"):
        connection.put(tmp_path / "source", str(tmp_path / "folder" / "there"), resume=resume)
    assert list((tmp_path / "folder" / "there").iterdir()) == []


@pytest.mark.parametrize("name", ["a\0b", "\0", "half \ud83d", "/x/\udfff\ud800"])
def test_what_can_be_no_path_is_refused(connection: Connection, tmp_path: Path, name: str):
    (tmp_path / "source").write_text("x")
    for attempt in (
        lambda: connection.run(["echo", name]), lambda: connection.start(["echo", name]),
        lambda: connection.put(tmp_path / "source", f"/tmp/{name}"), lambda: connection.put(tmp_path / "source", name),
        lambda: connection.get(f"/tmp/{name}", tmp_path / "back"), lambda: connection.path(name),
    ):  # fmt: skip
        with pytest.raises(DeviceError, match=r"can be no path or argument there\.$"):
            attempt()


@pytest.mark.parametrize("home", ["", "here", "/a\0b", "/" + "x" * 5000, "/half \ud800"])
def test_a_home_that_cannot_be_is_refused(home: str):
    with pytest.raises(DeviceError, match=r"^far: (it has none: |.* can be no path)") as caught:
        home_of(FAR, Completed(0, f"{home}\n", "y" * 5000), "it has none")
    assert len(str(caught.value)) < 500
    assert home_of(FAR, Completed(0, "/home/x y\n", ""), "it has none") == "/home/x y"


# The beginning of a process: what the shell's profile prints


def _by_ssh(talker: Talker) -> _SshProcess:
    it = object.__new__(_SshProcess)
    it._link = SimpleNamespace(device=FAR, alive=True)  # type: ignore[assignment]
    it._stderr, it._ahead, it._pid = bytearray(), bytearray(), b""
    it._channel = SimpleNamespace(  # type: ignore[assignment]
        recv=talker.receive, settimeout=lambda s: None, eof_received=False, recv_stderr_ready=lambda: True,
        recv_stderr=lambda most: b"x" * most,
    )  # fmt: skip
    return it


def _by_adb(talker: Talker) -> adb._AdbProcess:
    it = object.__new__(adb._AdbProcess)
    it._connection = SimpleNamespace(device=FAR)  # type: ignore[assignment]
    it._local, it._ahead, it._pid = talker, bytearray(), b""  # type: ignore[assignment]
    return it


@pytest.mark.parametrize("begin", [_by_ssh, _by_adb])
def test_a_chatty_profile_ends(monkeypatch: pytest.MonkeyPatch, begin: Callable[[Talker], Any]):
    loud = Talker(b"Welcome to this board!\n" * 1000, 0, monkeypatch)
    with pytest.raises(DeviceError, match=r"^far: expected what its shell.* prints.* to have at most 1048576 bytes"):
        begin(loud).receive(60)
    slow = Talker(b".", 7, monkeypatch)
    with pytest.raises(TimeoutError):
        begin(slow).receive(60)
    assert 60 <= slow.s <= 74
    bit_by_bit = Talker(b"", 0, monkeypatch)
    pieces = [bytes([byte]) for byte in b"hello edgenas-pid:1234567\r\n"] + [b"x"]
    bit_by_bit.receive = lambda timeout_s: pieces.pop(0)  # type: ignore[method-assign]
    started = begin(bit_by_bit)
    assert (started.receive(60), started._pid) == (b"x", b"1234567")


def test_stderr_over_ssh_is_bounded(monkeypatch: pytest.MonkeyPatch):
    started = _by_ssh(Talker(b"edgenas-pid:1\nx", 0, monkeypatch))
    assert started.receive(60) == b"x"
    assert len(started.errors()) <= limits.MOST_ERRORS_BYTES


# What SSH itself may do


@pytest.fixture
def link() -> _Link:
    link = object.__new__(_Link)
    link.device, link._why, link._channels = FAR, "", []
    return link


def test_a_server_that_does_not_answer_to_a_command_is_not_waited_for(link: _Link, monkeypatch: pytest.MonkeyPatch):
    ended = threading.Event()

    def never(command: object) -> None:
        assert command == scripts.command("SCRIPT", ["a", "b c"])
        ended.wait()
        raise EOFError

    monkeypatch.setattr(limits, "UNANSWERED_S", 0.01)
    channel = SimpleNamespace(exec_command=never, close=ended.set)
    with pytest.raises(UnreachableError, match="far: the link broke: the connection was closed"):
        link.begin(channel, "SCRIPT", ["a", "b c"])  # type: ignore[arg-type]


def test_a_server_that_answers_to_a_command_is_left_alone(link: _Link):
    channel = SimpleNamespace(exec_command=lambda it: None, close=lambda: pytest.fail("it is closed"))
    link.begin(channel, "x", [])  # type: ignore[arg-type]
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert all(timer.finished.is_set() for timer in timers), "nobody closes it later"


@pytest.mark.parametrize("on", ["in_buffer", "in_stderr_buffer"])
@pytest.mark.parametrize(("waiting_bytes", "given_up"), [(8 << 20, False), ((8 << 20) + 1, True)])
def test_a_server_that_sends_unasked_is_given_up(link: _Link, on: str, waiting_bytes: int, given_up: bool):
    class Channel:
        in_buffer: Any = ()
        in_stderr_buffer: Any = ()

    flooded, quiet, gone = Channel(), Channel(), Channel()
    setattr(flooded, on, range(waiting_bytes))
    link._channels = [weakref.ref(it) for it in (gone, quiet, flooded)]  # type: ignore[misc]
    del gone
    ticks = iter([False, True])
    wire = SimpleNamespace(heard_at=float("inf"))
    transport = SimpleNamespace(is_active=lambda: True, close=lambda: closed.append(1))
    closed: list[int] = []
    link._wire, link._transport = wire, transport  # type: ignore[assignment]
    link._closed = SimpleNamespace(wait=lambda s: next(ticks))  # type: ignore[assignment]
    link._watch()
    assert bool(closed) is given_up
    assert ("it sends more than it was asked for" in str(link.lost())) is given_up
    assert quiet in [it() for it in link._channels]


def test_a_packet_of_any_size_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    wire = object.__new__(_BoundedWire)
    wire._socket = SimpleNamespace(recv=lambda count: b"x" * count)  # type: ignore[assignment]
    assert len(wire.recv(256 << 10)) == 256 << 10
    with pytest.raises(OSError, match="a packet of 262145 bytes is announced"):
        wire.recv((256 << 10) + 1)
