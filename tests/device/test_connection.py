"""The contract that every kind of connection keeps."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgenas.device import Connection, Device, adb, connect, process, ssh
from edgenas.device import connection as ways
from edgenas.device.agent import machine
from edgenas.device.ssh import _Link, _SshProcess
from edgenas.errors import DeviceError, InputError, TooSlowError, UnreachableError
from tests.board import Board, Proxy
from tests.device.conftest import gone, reach
from tests.waiting import until

ODD = ["a b", "$(id)", "`id`", "x'y\"z", "new\nline", "*", "~", "$HOME", "\\", "", "-n", "é", "; exit 7", "a#b"]


@pytest.fixture(params=["local", "ssh", "adb", "adb-android"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    """The same device, reached in each way."""
    return reach(request.param, request, tmp_path)


def test_arguments_arrive_as_they_are(connection: Connection):
    done = connection.run(["printf", "<%s>", *ODD])
    assert (done.returncode, done.stdout) == (0, "".join(f"<{word}>" for word in ODD))


def test_exit_code_output_and_errors_are_kept_apart(connection: Connection):
    done = connection.run(["sh", "-c", "echo out; echo err >&2; exit 5"])
    assert (done.returncode, done.stdout, done.stderr) == (5, "out\n", "err\n")
    assert connection.run(["no-such-program"]).returncode == 127


def test_input_reaches_the_command_and_ends(connection: Connection):
    big = os.urandom(3_000_000).hex().encode()
    done = connection.run(["sh", "-c", "tee /dev/stderr | wc -c"], input=big)
    assert int(done.stdout) == len(big)
    kept = done.stderr.encode()
    assert big.endswith(kept) and len(kept) > 1_000_000
    assert connection.run(["cat"]).stdout == ""


def test_a_command_need_not_read_its_input(connection: Connection):
    for command in ("exit 3", "echo done; exit 3"):
        done = connection.run(["sh", "-c", command], input=b"x" * 5_000_000)
        assert (done.returncode, done.stdout) == (3, "done\n" if "echo" in command else "")


def test_commands_start_at_home(connection: Connection):
    assert connection.run(["pwd"]).stdout == f"{connection.home}\n"
    assert connection.path("~/x") == connection.path("x") == f"{connection.home}/x"
    assert connection.path("/x") == "/x"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a command is up when it has said "begun", and not before."""
    began: list[bool] = []
    really = ways.printed

    def printed(sink: Callable[[bytes], object], device: Device, argv: Sequence[str]) -> Callable[[bytes], object]:
        take = really(sink, device, argv)

        def listen(data: bytes) -> None:
            began.extend([True] if b"begun" in data else [])
            take(data)

        return listen

    # As long as the link itself would not be called silent.
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + (5 if began else 0))
    for module in (ways, ssh, adb):
        monkeypatch.setattr(module, "printed", printed)
    for module in (process, ssh):
        monkeypatch.setattr(module, "time", clock)


@pytest.mark.usefixtures("hurried")
def test_a_command_that_takes_too_long_is_stopped(connection: Connection, tmp_path: Path):
    with pytest.raises(TooSlowError, match="not done after 5 s, and was stopped"):
        code = 'echo $$ > "$1"; echo begun; sleep 300; exit 3'
        connection.run(["sh", "-c", code, "sh", str(tmp_path / "pid")], timeout_s=5)
    until(lambda: gone(int((tmp_path / "pid").read_text())), "the command ended")


def test_files_go_there_and_back(connection: Connection, tmp_path: Path):
    source, back = tmp_path / "source", tmp_path / "back"
    for content in (b"", os.urandom(5_000_001)):
        source.write_bytes(content)
        remote = str(tmp_path / "on the device" / "it's")
        connection.put(source, remote)
        assert Path(remote).read_bytes() == content
        connection.get(remote, back)
        assert back.read_bytes() == content
    assert [path.name for path in Path(remote).parent.iterdir()] == ["it's"], "no part is left"


def test_a_file_that_goes_on_where_it_was_is_the_same_file(connection: Connection, tmp_path: Path):
    source, remote = tmp_path / "source", tmp_path / "there" / "content"
    content = os.urandom(700_001)
    source.write_bytes(content)
    told: list[tuple[int, int]] = []
    for beginning in (None, content[:300_000], content, content + b"longer than it can be"):
        if beginning is not None:
            remote.unlink()
            remote.with_name("content.part").write_bytes(beginning)
        connection.put(source, str(remote), resume=True, sent=lambda done, total: told.append((done, total)))
        assert remote.read_bytes() == content
        assert [path.name for path in remote.parent.iterdir()] == ["content"], "no part is left"
    assert all(0 < done <= total == len(content) for done, total in told)


def test_a_file_that_is_too_large_does_not_fill_the_hosts_disk(connection: Connection, tmp_path: Path):
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(300_000))
    connection.get(str(source), back, largest_bytes=300_000)
    back.unlink()
    with pytest.raises(DeviceError, match="source to have at most 299999 bytes, received more"):
        connection.get(str(source), back, largest_bytes=299_999)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["source"], "no part is left"
    assert connection.run(["true"]).returncode == 0, "the connection goes on"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "source").write_text("x")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sync").write_text(f'#!/bin/sh\nls "$(dirname "$1")" > "{tmp_path}/seen"\n')
    (tools / "sync").chmod(0o755)
    with Board(tmp_path / "board", path=f"{tools}:/usr/bin:/bin") as own, connect(own.device()) as connection:
        connection.put(tmp_path / "source", str(tmp_path / "there" / "target"))
    assert (tmp_path / "seen").read_text() == "target.part\n"
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink().name))
    with connect(Device("here", "local:")) as connection:
        connection.put(tmp_path / "source", str(tmp_path / "here" / "target"))
    assert synced == ["target.part"]


def test_files_that_are_not_there(connection: Connection, tmp_path: Path):
    with pytest.raises(InputError, match="no file"):
        connection.put(tmp_path / "nothing", "x")
    with pytest.raises(DeviceError, match=r"could not be read: .*No such file"):
        connection.get(str(tmp_path / "nothing"), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_full_or_forbidden_target_is_named_and_the_old_file_stays(connection: Connection, tmp_path: Path):
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    (tmp_path / "file").write_text("a file, no folder")
    with pytest.raises(DeviceError, match="could not be written"):
        connection.put(source, str(tmp_path / "file" / "below"))
    assert (tmp_path / "file").read_text() == "a file, no folder"


def test_nothing_is_opened_before_it_is_used(tmp_path: Path):
    with connect(Device("gone", "ssh://nobody@127.0.0.1:1")):
        pass


def test_a_full_disk_is_named(board: Board, tmp_path: Path):
    """/dev/full is a disk without room: the device's own `cat` says so."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    (tmp_path / "target.part").symlink_to("/dev/full")
    with connect(board.device()) as connection, pytest.raises(DeviceError, match="No space left on device"):
        connection.put(source, str(tmp_path / "target"))
    assert not (tmp_path / "target").exists()


def test_a_link_cut_in_mid_upload_leaves_the_old_file(board: Board, tmp_path: Path):
    source, target = tmp_path / "source", tmp_path / "there" / "target"
    source.write_bytes(os.urandom(8_000_000))
    target.parent.mkdir()
    target.write_text("old")
    with Proxy(board.port) as proxy, connect(board.device(port=proxy.port)) as connection:
        assert connection.run(["true"]).returncode == 0
        proxy.cut_after = 3_000_000
        with pytest.raises(DeviceError, match="the link broke"):
            connection.put(source, str(target))
        assert target.read_text() == "old"
        assert _settled(target.parent) == ["target"]
        proxy.cut_after = None
        connection.put(source, str(target))  # it opens a new link by itself
        assert target.read_bytes() == source.read_bytes()
    assert _settled(target.parent) == ["target"]


def _settled(folder: Path) -> list[str]:
    """The names in a folder once the server has noticed the end of the link."""
    until(lambda: not list(folder.glob("*.part")))
    return sorted(path.name for path in folder.iterdir())


def test_a_link_that_falls_silent_is_noticed(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(30_000_000))
    with Proxy(board.port) as proxy, connect(board.device(port=proxy.port)) as connection:
        assert connection.run(["true"]).returncode == 0
        proxy.stalled.set()  # from now on nothing can be heard
        monkeypatch.setattr(ssh, "_SILENCE_S", 0.2)
        with pytest.raises(UnreachableError, match=r"the link broke: nothing heard for 0\.2 s"):
            connection.put(source, str(tmp_path / "target"))
        proxy.stalled.clear()
    assert not (tmp_path / "target").exists()


class Line:
    """A link's transport and wire, and its wish to end: time goes by in waiting alone."""

    def __init__(self, answers_until_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.s = self.heard_at = 0.0
        self.answers_until_s = answers_until_s
        self.alive, self.closed_at_s = True, 0.0
        self.waited: list[float] = []
        self.asked: list[tuple[str, bool]] = []
        self.link = object.__new__(_Link)
        self.link.device = Device("far", "ssh://far")
        self.link._why, self.link._channels = "", []
        self.link._closed, self.link._transport, self.link._wire = self, self, self  # type: ignore[assignment]
        monkeypatch.setattr(ssh, "time", SimpleNamespace(monotonic=lambda: self.s))

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        self.s += seconds
        if self.s <= self.answers_until_s:
            self.heard_at = self.s
        return self.s > 100

    def is_active(self) -> bool:
        return self.alive

    def global_request(self, kind: str, wait: bool) -> None:
        self.asked.append((kind, wait))

    def close(self) -> None:
        self.alive, self.closed_at_s = False, self.s


def test_an_idle_link_is_asked_for_a_sign_of_life(monkeypatch: pytest.MonkeyPatch):
    line = Line(1000, monkeypatch)
    line.link._ping()
    assert line.waited == [4.0] * 26 and line.asked == [("keepalive@openssh.com", True)] * 25


@pytest.mark.parametrize(("answers_until_s", "ends_at_s"), [(1000.0, 0.0), (0.0, 13.0), (20.0, 33.0)])
def test_a_link_is_given_up_after_twelve_seconds_of_silence(
    monkeypatch: pytest.MonkeyPatch, answers_until_s: float, ends_at_s: float
):
    line = Line(answers_until_s, monkeypatch)
    line.link._watch()
    assert (line.alive, line.closed_at_s) == (not ends_at_s, ends_at_s)
    words = "nothing heard for 12 s" if ends_at_s else "the connection was closed"
    assert str(line.link.lost()) == f"far: the link broke: {words}. Try again when it is back."


class Channel:
    """A channel to a process that takes this many bytes and reads no more."""

    def __init__(self, takes: int) -> None:
        self.left, self.taken = takes, b""

    def send_ready(self) -> bool:
        return self.left > 0

    def send(self, data: bytes) -> int:
        taken = data[: min(len(data), self.left)]
        self.left -= len(taken)
        self.taken += taken
        return len(taken)


def test_a_process_that_reads_nothing_is_waited_for_a_minute(monkeypatch: pytest.MonkeyPatch):
    line = Line(1000, monkeypatch)
    monkeypatch.setattr(machine, "sleep", line.wait)
    process = object.__new__(_SshProcess)
    process._link = line.link
    process._channel = Channel(100_000)  # type: ignore[assignment]
    sent = os.urandom(100_000)
    process.send(sent)
    assert process._channel.taken == sent and line.s == 0  # type: ignore[attr-defined]
    with pytest.raises(UnreachableError, match="a process there reads nothing"):
        process.send(b"x")
    assert line.s == pytest.approx(60, abs=0.01)


def test_a_link_that_breaks_while_something_is_sent_is_named(monkeypatch: pytest.MonkeyPatch):
    """paramiko's EOFError, where the socket is the first to notice."""
    line = Line(1000, monkeypatch)

    def cut(data: bytes) -> int:
        line.alive = False
        raise EOFError

    nothing = {"recv_ready": lambda: False, "recv_stderr_ready": lambda: False, "send_ready": lambda: True}
    state = {"closed": True, "eof_received": False, "status_event": line, "exit_status": 0}
    process = object.__new__(_SshProcess)
    process._link = line.link
    process._channel = SimpleNamespace(**nothing, **state, send=cut)  # type: ignore[assignment]
    with pytest.raises(UnreachableError, match="far: the link broke: the connection was closed"):
        process.finish(iter([b"x"]), lambda _: None, 30, ["cat"])
