"""A device that would hold the host, fill it, or break it: every answer ends, whatever the way to it."""

import json
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgenas.device import Agent, Completed, Connection, Device, Phone, adb, limits, process, scripts, session, ssh
from edgenas.device.connection import home_of
from edgenas.device.process import LocalProcess
from edgenas.device.ssh import _BoundedWire, _Link, _SshProcess
from edgenas.errors import DeviceError, EdgeNASError, InputError, UnreachableError
from tests.device.conftest import reach
from tests.waiting import until

FAR = Device("far", "ssh://far")
PROGRESS = b'{"id": 1, "event": "progress", "run": 1}\n'
LONG_PROGRESS = PROGRESS.replace(b"1}", b'"' + b"x" * 20_000 + b'"}')


@pytest.fixture(params=["local", "ssh", "adb"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    return reach(request.param, request, tmp_path)


@pytest.fixture(autouse=True)
def nothing_hangs() -> Iterator[None]:
    """What these tests would otherwise do is to wait for ever."""

    def give_up(*_: Any) -> None:
        raise AssertionError("the host is held")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(100)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class Talker:
    """An agent that always has something to say, the same again and again; each piece of it takes so many seconds."""

    def __init__(self, piece: bytes, every_s: float, patch: pytest.MonkeyPatch) -> None:
        self.s, self.said_bytes = 0.0, 0
        self._piece, self._every_s = piece, every_s
        for module in (session, ssh, adb):
            patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.s))

    def receive(self, timeout_s: float) -> bytes:
        assert self.said_bytes < 1 << 30, "it is listened to for ever"
        self.s += self._every_s
        self.said_bytes += len(self._piece)
        return self._piece

    def send(self, data: bytes) -> None:
        pass

    def errors(self) -> str:
        return ""

    def close(self) -> None:
        pass


def agent_that(talker: Any) -> Agent:
    return Agent(SimpleNamespace(device=FAR), talker)  # type: ignore[arg-type]


# Answers of the agent


@pytest.mark.parametrize(
    ("op", "params", "most_s"),
    [("status", {}, 60), ("deployed", {}, 60), ("infer", {}, 43_200), ("single", {"runs": 10, "every_us": 0}, 43_200),
     ("single", {"runs": 100_000, "every_us": 10_000_000}, 43_200 + 2_000_000), ("measure", {"runs": 5}, 43_200)],
)  # fmt: skip
def test_endless_progress_ends(monkeypatch: pytest.MonkeyPatch, op: str, params: dict[str, Any], most_s: float):
    talker = Talker(PROGRESS, 59, monkeypatch)
    with pytest.raises(DeviceError, match=r"far: the agent was not done after [^ ]+ s while asked to") as caught:
        agent_that(talker).call(op, timeout_s=60, **params)
    assert f"after {most_s:g} s while asked to {op}." in str(caught.value)
    assert most_s <= talker.s <= most_s + 59


@pytest.mark.parametrize("piece", [b" ", b"{", b'{"id": 1'])
def test_bytes_that_never_become_a_line_are_silence(monkeypatch: pytest.MonkeyPatch, piece: bytes):
    talker = Talker(piece, 0.5, monkeypatch)
    with pytest.raises(DeviceError, match="far: the agent said nothing for 60 s while asked to measure"):
        agent_that(talker).call("measure", timeout_s=60)
    assert talker.s == 60


def test_silence_after_progress_is_silence(monkeypatch: pytest.MonkeyPatch):
    talker = Talker(PROGRESS, 1, monkeypatch)
    pieces = iter([PROGRESS, PROGRESS])

    def receive(timeout_s: float) -> bytes:
        talker.s += 1
        if (piece := next(pieces, b"")) == b"":
            talker.s += timeout_s
            raise TimeoutError
        return piece

    talker.receive = receive  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="said nothing for 60 s while asked to measure"):
        agent_that(talker).call("measure", timeout_s=60)


@pytest.mark.parametrize(("op", "most_kb"), [("status", 64), ("deployed", 4096), ("measure", 8192)])
@pytest.mark.parametrize("piece", [LONG_PROGRESS, b"x" * 50_000])
def test_answers_without_end_are_not_kept(monkeypatch: pytest.MonkeyPatch, op: str, most_kb: int, piece: bytes):
    talker = Talker(piece, 0, monkeypatch)
    with pytest.raises(DeviceError, match=rf"the agent's answer to {op} makes no sense: it has more than {most_kb} kB"):
        agent_that(talker).call(op)
    assert talker.said_bytes <= (most_kb << 10) + 2 * len(piece)


def test_answers_of_the_largest_size_are_read(monkeypatch: pytest.MonkeyPatch):
    def line(most_bytes: int) -> bytes:
        begin, end = b'{"id": 1, "ok": true, "result": "', b'"}\n'
        return begin + b"x" * (most_bytes - len(begin) - len(end)) + end

    for op, most_bytes in (("status", 64 << 10), ("deployed", 4 << 20)):
        assert len(agent_that(Talker(line(most_bytes), 0, monkeypatch)).call(op)) > most_bytes - 100
        with pytest.raises(DeviceError, match="it has more than"):
            agent_that(Talker(line(most_bytes + 1), 0, monkeypatch)).call(op)


LONG = "x" * 60_000


@pytest.mark.parametrize(
    "said",
    [
        {"id": LONG}, {"id": [LONG]}, {"ok": False, "error": LONG}, {"ok": False, "error": {"message": LONG}},
        {"ok": False, "error": {"kind": LONG, "message": LONG}}, {"ok": False, "error": {"kind": "no_runtime",
         "message": LONG}}, {"ok": True, "result": {"agent": LONG}}, {"ok": True, "result": {LONG: 1}},
        {"ok": True, "result": LONG}, {"ok": True, "result": [LONG]}, {LONG: LONG},
    ],
)  # fmt: skip
@pytest.mark.parametrize("ask", [lambda agent: agent.info, lambda agent: agent.status()])
def test_what_it_says_is_not_repeated_whole(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], ask: Callable[[Agent], Any]
):
    line = json.dumps({"id": 1, **said}).encode() + b"\n"
    try:
        ask(agent_that(Talker(line, 0, monkeypatch)))
    except EdgeNASError as error:
        assert len(str(error)) < 2500


@pytest.mark.parametrize("kind", [[], ["no_space"], {}, {"a": []}, None, 7, True])
def test_a_refusal_of_no_kind_makes_no_sense(monkeypatch: pytest.MonkeyPatch, kind: object):
    line = json.dumps({"id": 1, "ok": False, "error": {"kind": kind, "message": "no"}}).encode() + b"\n"
    with pytest.raises(DeviceError, match="neither a result nor an error"):
        agent_that(Talker(line, 0, monkeypatch)).call("status")


# What commands print, files, names


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


# Phones, and what the agent finds on its own device


def test_a_phone_that_answers_bit_by_bit_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    from edgenas.device import phone

    talker = Talker(b"h", 0.5, monkeypatch)
    monkeypatch.setattr(
        phone, "time", SimpleNamespace(monotonic=lambda: talker.s, strftime=lambda *_: "", gmtime=lambda: None)
    )
    it = Phone(SimpleNamespace(device=FAR, path=str, start=lambda argv: talker))  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="it said nothing for 30 s when asked for its lock"):
        it.lock()
    assert talker.s == 30


def test_pipes_in_the_places_of_the_agents_files(here: Agent, local: Connection, tmp_path: Path):
    from tests.device.test_releases import ship

    ship(here, local, tmp_path, 10, "one")
    history = Path(local.folder, "models/net/history.jsonl")
    history.unlink()
    os.mkfifo(history)
    with pytest.raises(DeviceError, match=r"it is no file: .*history\.jsonl"):
        here.call("rollback", name="net")
    history.unlink()
    keys = Path(local.folder, "trusted_keys")
    keys.mkdir()
    os.mkfifo(keys / f"{'a' * 16}.pub")
    with pytest.raises(InputError, match=r"cannot be read \(it is no file: .*a\.pub\), so it takes nothing"):
        here.call("verify", name="net")
    (keys / f"{'a' * 16}.pub").unlink()
    blobs = Path(local.folder, "blobs")
    for name in ("b" * 64, f"{'c' * 64}.part"):
        os.mkfifo(blobs / name)
    assert here.call("prepare", name="net", release=20, files={"x": {"sha256": "b" * 64, "size_bytes": 1}}) == {
        "folder": str(blobs), "lacking": ["b" * 64],
    }  # fmt: skip


def test_a_pipe_in_the_place_of_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from edgenas.device.agent import locking

    os.mkfifo(tmp_path / "edgenas-device.lock")
    assert locking._holder(tmp_path / "edgenas-device.lock") == "somebody else"
    os.close(locking._open(tmp_path / "edgenas-device.lock"))


def test_a_pipe_in_the_place_of_the_agent(connection: Connection, tmp_path: Path):
    if connection.device.address.kind == "adb":
        return  # no agent runs there
    os.mkfifo(tmp_path / "agent.pyz")
    assert session.find_python(connection, str(tmp_path / "agent.pyz"))[1] == "-"
