"""One profiler a device: who takes it, who is waited for, and when a holder lets go."""

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgenas.device import Agent, Connection, open_agent, session
from edgenas.device.agent import locking, machine
from edgenas.device.agent.context import Context, OperationError
from edgenas.device.agent.machine import shared_folder  # the real one: it is replaced in every test
from edgenas.errors import DeviceError
from tests.device.conftest import gone
from tests.device.scripted import Says
from tests.waiting import until

LEASE_S = 30.0


class Ended(BaseException):
    """In the place of os._exit."""


class Lab:
    """A device whose clock moves in sleep alone, and the lock of an agent on it.

    Attributes:
        s: its clock.
        on_sleep: called after each sleep.
        timers: what the agent has set: (which, first, every).
        look: what the timer calls.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "edgenas-device.lock"
        self.s = 1_000_000.0
        self.on_sleep: Callable[[], None] = lambda: None
        self.timers: list[Any] = []
        self.look: Callable[[], None] = lambda: None
        self.reader, self.writer = os.pipe()
        self.stdin: Any = SimpleNamespace(descriptor=self.reader, heard_at=self.s)
        clock = {"time": lambda: self.s, "strftime": lambda form, at: "2026-01-02T03:04:05Z", "gmtime": lambda: None}
        for name, stand_in in {
            "machine": SimpleNamespace(
                monotonic_s=lambda: self.s, sleep=self._sleep, shared_folder=lambda: str(folder)
            ),
            "time": SimpleNamespace(**clock),
            "signal": SimpleNamespace(
                SIGALRM=signal.SIGALRM, ITIMER_REAL=signal.ITIMER_REAL, signal=self._handle,
                setitimer=lambda *timer: self.timers.append(timer),
            ),
            "_held": [],
        }.items():  # fmt: skip
            monkeypatch.setattr(locking, name, stand_in)
        monkeypatch.setattr(os, "_exit", self._exit)

    def _sleep(self, seconds: float) -> None:
        self.s += seconds
        assert self.s < 1_001_000, "it waits for ever"
        self.on_sleep()

    def _handle(self, number: int, look: Callable[[], None]) -> None:
        assert number == signal.SIGALRM
        self.look = look

    def _exit(self, code: int) -> None:
        raise Ended(code)

    def lock(self, who: str = "me@here") -> dict[str, Any]:
        return locking.lock(Context("/", self.stdin, lambda **_: None), who, LEASE_S)

    def held_by_another(self, heard_s_ago: float) -> int:
        """The descriptor of its lock."""
        descriptor = locking._open(self.file)
        assert locking._taken(descriptor)
        os.write(descriptor, json.dumps({"who": "you@there", "pid": 7, "since": "yesterday"}).encode())
        os.utime(self.file, (self.s - heard_s_ago, self.s - heard_s_ago))
        return descriptor

    def is_free(self) -> bool:
        """Whether nobody holds the lock, this process' other descriptors included."""
        descriptor = os.open(self.file, os.O_RDONLY)
        try:
            return locking._taken(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        for descriptor in (*locking._held, self.reader, self.writer):
            os.close(descriptor)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    lab = Lab(tmp_path, monkeypatch)
    yield lab
    lab.close()


def test_a_free_device_is_taken_and_says_by_whom(lab: Lab):
    lab.file.write_text("x" * 500)  # of an earlier holder
    assert lab.lock("w" * 300) == {"held": True}
    assert json.loads(lab.file.read_text()) == {
        "who": "w" * 200, "pid": os.getpid(), "since": "2026-01-02T03:04:05Z",
    }  # fmt: skip
    assert not lab.is_free()
    assert lab.lock() == {"held": True}, "it is ours already"
    assert (len(locking._held), len(lab.timers)) == (1, 1)


def test_every_user_can_reach_the_file(lab: Lab):
    before = os.umask(0o077)
    try:
        lab.lock()
    finally:
        os.umask(before)
    assert lab.file.stat().st_mode & 0o777 == 0o666


def test_a_holder_whose_host_was_heard_is_named_at_once(lab: Lab):
    descriptor = lab.held_by_another(heard_s_ago=LEASE_S / 3 - 0.1)
    began, open_before = lab.s, len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    words = r"the device is being measured by you@there \(process 7 there\) since yesterday"
    with pytest.raises(OperationError, match=words) as caught:
        lab.lock()
    assert (caught.value.kind, lab.s, locking._held) == ("busy", began, [])
    assert len(os.listdir("/proc/self/fd")) == open_before, "who was refused holds nothing"  # noqa: PTH208
    os.close(descriptor)
    assert lab.lock() == {"held": True}


@pytest.mark.parametrize("said", ["", "[]", "{}", '{"who": 1, "pid": "x", "since": 2}', "\\x00"])
def test_a_holder_that_left_no_note_is_somebody_else(lab: Lab, said: str):
    descriptor = lab.held_by_another(heard_s_ago=0)
    lab.file.write_text(said)
    os.utime(lab.file, (lab.s, lab.s))
    with pytest.raises(OperationError, match="is being measured by somebody else"):
        lab.lock()
    os.close(descriptor)


def test_a_holder_whose_host_is_silent_is_waited_for(lab: Lab):
    descriptor, began = lab.held_by_another(heard_s_ago=LEASE_S / 3 + 0.1), lab.s

    def let_go() -> None:
        if lab.s >= began + 20:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    lab.on_sleep = let_go
    assert lab.lock() == {"held": True}
    assert lab.s - began == pytest.approx(20, abs=0.21)


def test_a_silent_holder_that_is_heard_again_is_left_alone(lab: Lab):
    descriptor, began = lab.held_by_another(heard_s_ago=LEASE_S), lab.s

    def beat() -> None:
        if lab.s >= began + 5:
            os.utime(lab.file, (lab.s, lab.s))

    lab.on_sleep = beat
    with pytest.raises(OperationError, match="is being measured by you@there"):
        lab.lock()
    assert lab.s - began == pytest.approx(5, abs=0.21)
    os.close(descriptor)


def test_nobody_is_waited_for_longer_than_a_lease(lab: Lab):
    descriptor, began = lab.held_by_another(heard_s_ago=1000 * LEASE_S), lab.s
    with pytest.raises(OperationError, match="is being measured by you@there"):
        lab.lock()
    assert lab.s - began == pytest.approx(LEASE_S, abs=0.41)
    os.close(descriptor)


def test_a_holder_writes_down_when_its_host_was_heard(lab: Lab):
    lab.lock()
    assert lab.timers == [(signal.ITIMER_REAL, LEASE_S / 15, LEASE_S / 15)]
    lab.s += LEASE_S - 1
    lab.look()
    assert lab.file.stat().st_mtime == lab.stdin.heard_at
    lab.stdin.heard_at = lab.s
    lab.look()
    assert lab.file.stat().st_mtime == lab.s


def test_a_holder_whose_host_fell_silent_ends(lab: Lab):
    lab.lock()
    lab.s += LEASE_S + 1
    os.write(lab.writer, b"\n")
    lab.look()  # something has come, and was not read yet
    os.read(lab.reader, 1)
    with pytest.raises(Ended):
        lab.look()


def test_another_user_s_file_holds_all_the_same(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    lab.file.touch()
    really_open = os.open

    def forbidden(path: Any, flags: int, *more: Any) -> int:
        if flags & os.O_RDWR:
            raise PermissionError
        return really_open(path, flags, *more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", forbidden)
        assert lab.lock() == {"held": True}
    lab.look()
    assert lab.file.read_text() == "", "it is not ours to write"
    assert not lab.is_free()


def test_a_link_in_the_lock_file_s_place_is_not_followed(lab: Lab, tmp_path: Path):
    (tmp_path / "precious").write_text("kept")
    lab.file.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError):
        lab.lock()
    assert (tmp_path / "precious").read_text() == "kept"


def test_the_host_beats_six_times_a_lease_until_it_closes(local: Connection, monkeypatch: pytest.MonkeyPatch):
    says = Says(*(f'{{"id": {number}, "ok": true, "result": {{}}}}' for number in (1, 2)))
    monkeypatch.setattr(session, "_LEASE_S", 12.0)
    waited: list[float] = []
    agent = Agent(local, says)

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) > 3

    monkeypatch.setattr(agent._closed, "wait", wait)
    agent.lock()
    assert agent._lease is not None
    agent._lease.join()
    asked = json.loads(says.heard[0])
    assert (asked["op"], asked["params"]["lease_s"]) == ("lock", 12.0)
    assert "@" in asked["params"]["who"]
    assert (waited, says.heard[1:]) == ([2.0] * 4, [""] * 3)
    agent.lock()
    assert len(waited) == 4, "one heart"


@pytest.mark.parametrize("tmpdir", ["/nowhere", "own"])
def test_sessions_with_another_tmpdir_meet_at_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmpdir: str
):
    monkeypatch.setenv("TMPDIR", str(tmp_path / tmpdir))
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert shared_folder() == "/tmp"


def test_the_lock_lies_where_every_user_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever asks, root included: all must find the same folder."""
    names = [str(tmp_path / name) for name in ("none", "mine", "fixed", "ours")]
    monkeypatch.setattr(machine, "_EVERYBODYS", names)
    monkeypatch.setattr(tempfile, "tempdir", "/fallback")
    really = os.statvfs
    fixed = SimpleNamespace(f_flag=os.ST_RDONLY)
    monkeypatch.setattr(os, "statvfs", lambda path: fixed if path.endswith("fixed") else really(path))
    for name, mode, found in (("mine", 0o755, "/fallback"), ("fixed", 0o777, "/fallback"), ("ours", 0o1777, names[3])):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
        assert shared_folder() == found


@pytest.fixture
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of agents that start from now on is the test's own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    assert tempfile.gettempdir()


@pytest.mark.usefixtures("own_lock")
def test_two_real_agents_and_a_holder_that_is_killed(local: Connection):
    """The lock is the system's own: whatever way the holder ends."""
    with open_agent(local) as first, open_agent(local) as second:
        pid = first.info.pid
        first.lock()
        words = rf"the device is being measured by .+@.+ \(process {pid} there\) since 20"
        with pytest.raises(DeviceError, match=words):
            second.lock()
        os.kill(pid, signal.SIGKILL)
        until(lambda: gone(pid))
        second.lock()


@pytest.mark.usefixtures("own_lock")
def test_a_real_holder_whose_host_fell_silent_ends(local: Connection, monkeypatch: pytest.MonkeyPatch):
    """As with a cable that was pulled: its stdin stays open, and nobody says a word any more."""
    monkeypatch.setattr(session, "_LEASE_S", 0.3)
    with open_agent(local) as agent, open_agent(local) as second:
        pid = agent.info.pid
        monkeypatch.setattr(agent._closed, "wait", lambda _: True)
        with contextlib.suppress(DeviceError):  # on a busy machine it may end before it answers
            agent.lock()
        until(lambda: gone(pid))
        with pytest.raises(DeviceError, match="the agent ended"):
            agent.call("status")
        monkeypatch.setattr(session, "_LEASE_S", 30.0)
        second.lock()
