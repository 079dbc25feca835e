"""What runs on a device stops while it is measured, and runs again whatever dies meanwhile."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgenas.deploy.pausing import Pause, paused
from edgenas.device import Agent, Connection, open_agent
from edgenas.device.agent import pausing
from edgenas.device.agent.context import OperationError
from edgenas.errors import DeviceError, InputError
from tests.waiting import until


class Work:
    """What runs on the device: a file that says so, and two commands."""

    def __init__(self, folder: Path) -> None:
        self.sign, self.broken = folder / "running", folder / "broken"
        self.tries = folder / "tries"
        self.sign.touch()
        start = folder / "start work"
        start.write_text(f'#!/bin/sh\necho x >> "{self.tries}"\n[ ! -e "{self.broken}" ] && touch "{self.sign}"\n')
        start.chmod(0o755)
        self.pause = Pause(stop=f"rm '{self.sign}'", start=f"'{start}'")

    @property
    def runs(self) -> bool:
        return self.sign.exists()


@pytest.fixture
def work(tmp_path: Path) -> Work:
    (tmp_path / "work place").mkdir()
    return Work(tmp_path / "work place")


@pytest.fixture
def agent(local: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    """That holds its device."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with open_agent(local) as agent:
        agent.lock()
        yield agent


def test_it_stops_and_runs_again(agent: Agent, work: Work) -> None:
    with paused(agent, work.pause):
        assert not work.runs
    assert work.runs
    assert work.tries.read_text() == "x\n", "started once"
    with paused(agent, work.pause):
        assert not work.runs
    assert work.runs, "it can be paused again"
    with paused(agent, None):
        assert work.runs


def test_an_error_meanwhile_is_told_and_it_runs_again(agent: Agent, work: Work) -> None:
    with pytest.raises(ValueError, match="mine"), paused(agent, work.pause):
        raise ValueError("mine")
    assert work.runs


@pytest.mark.parametrize("end", ["kill -9", "the link ends"])
def test_whatever_ends_the_agent_the_device_starts_it_again(agent: Agent, work: Work, end: str) -> None:
    with pytest.raises(DeviceError), paused(agent, work.pause):
        assert not work.runs
        if end == "kill -9":
            psutil.Process(agent.info.pid).kill()
        else:
            agent.close()
        agent.call("status")
    until(lambda: work.runs)


def test_a_start_that_fails_is_tried_again(agent: Agent, work: Work) -> None:
    work.broken.touch()
    with pytest.raises(DeviceError), paused(agent, work.pause):
        psutil.Process(agent.info.pid).kill()
        agent.call("status")
    until(lambda: work.tries.exists() and work.tries.read_text().count("x") >= 3)
    assert not work.runs
    work.broken.unlink()
    until(lambda: work.runs)


def test_success_is_said_only_when_it_runs_again(agent: Agent, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    work.broken.touch()
    answers = iter([{"guard": 1}, {"resumed": False}])
    monkeypatch.setattr(agent, "call", lambda op, **_: next(answers))
    with pytest.raises(DeviceError, match="does not say that what was paused runs again"), paused(agent, work.pause):
        pass


def test_the_guard_hears_no_signal_of_a_session_that_ends(agent: Agent, work: Work) -> None:
    guard = agent.call("pause", stop=["rm", str(work.sign)], start=["touch", str(work.sign)])["guard"]
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        os.kill(guard, number)
    assert os.getsid(guard) != os.getsid(agent.info.pid)
    assert psutil.Process(guard).status() != psutil.STATUS_ZOMBIE
    assert agent.call("resume") == {"resumed": True}
    assert work.runs
    until(lambda: not psutil.pid_exists(guard))


def test_what_cannot_be_paused_is_refused_before_anything_stops(agent: Agent, work: Work) -> None:
    for wrong, kind, words in (
        (Pause(stop="no-such-command", start="true"), InputError, "no command 'no-such-command'"),
        (Pause(stop=f"rm '{work.sign}'", start="no-such-command"), InputError, "no command 'no-such-command'"),
        (Pause(unit="-x"), InputError, "no name of a unit"),
    ):
        with pytest.raises(kind, match=words), paused(agent, wrong):
            pytest.fail("it was paused")
        assert work.runs
    with pytest.raises(DeviceError, match="exit code 1"), paused(agent, Pause(stop="false", start="true")):
        pytest.fail("it was paused")


def test_only_who_holds_the_device_pauses(local: Connection, work: Work) -> None:
    with open_agent(local) as agent, pytest.raises(DeviceError, match="only who holds the device"):
        agent.call("pause", stop=["rm", str(work.sign)], start=["true"])
    assert work.runs


@pytest.mark.parametrize(
    "wrong", [{}, {"unit": "a", "stop": "b", "start": "c"}, {"stop": "b"}, {"start": "c"}, {"stop": "'", "start": "c"}]
)
def test_half_a_pause_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError):
        Pause(**wrong)


class Systemd:
    """What systemctl and sudo say: `active` units, and whether sudo lets this user."""

    def __init__(self, active: tuple[str, ...] = ("app",), user_units: tuple[str, ...] = (), sudo: bool = True) -> None:
        self.active, self.user_units, self.sudo = active, user_units, sudo

    def __call__(self, argv: list[str], timeout_s: float) -> tuple[int, str]:
        if argv[0] == "sudo":
            return (0 if self.sudo else 1), ""
        units = self.user_units if "--user" in argv else self.active
        return (0 if argv[-1] in units else 3), ""


@pytest.mark.parametrize(
    ("systemd", "uid", "expected"),
    [
        (Systemd(), 0, ["systemctl", "stop", "app"]),
        (Systemd(), 1000, ["sudo", "-n", "systemctl", "stop", "app"]),
        (Systemd((), ("app",)), 1000, ["systemctl", "--user", "stop", "app"]),
        (Systemd(sudo=False), 1000, "no_rights"),
        (Systemd(()), 0, "bad_name"),
    ],
)
def test_how_a_unit_is_stopped(monkeypatch: pytest.MonkeyPatch, systemd: Systemd, uid: int, expected: Any) -> None:
    which: Callable[[str], str] = lambda name: f"/usr/bin/{name}"  # noqa: E731
    monkeypatch.setattr(pausing.shutil, "which", which)
    monkeypatch.setattr(pausing, "_run", systemd)
    monkeypatch.setattr(pausing.os, "geteuid", lambda: uid)
    if isinstance(expected, str):
        with pytest.raises(OperationError) as caught:
            pausing._commands("app")
        assert caught.value.kind == expected
    else:
        stop, start, check = pausing._commands("app")
        assert stop == expected and start == [word.replace("stop", "start") for word in expected]
        assert check[-3:] == ["is-active", "--quiet", "app"]
