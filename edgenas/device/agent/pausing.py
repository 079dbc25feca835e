"""What runs on the device stops while it is measured, and runs again whatever dies meanwhile.

A guard is started before anything is stopped: a process of its own session, which neither a signal to the agent's
session, nor the end of the link, nor `kill -9` of the agent reaches. It starts again what was stopped as soon as the
agent that it guards says so, or has ended; an agent that holds its device ends by itself when its host is gone
(locking.py). It goes on trying until the start succeeds.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import locking, machine
from .context import Context, OperationError

_LOOK_S = 0.5
_STOP_S, _START_S = 30, 30  # a command may take so long
_AGAIN_S = 5.0  # between two tries to start
_paused: list[dict[str, Any]] = []  # what this agent has stopped


def pause(
    context: Context, unit: str | None = None, stop: list[str] | None = None, start: list[str] | None = None
) -> dict[str, Any]:
    """Stop a systemd unit, or run the command `stop`, until `resume` or the end of this agent.

    Refused before anything is stopped: a unit that does not run, a command that is not there, or missing rights.

    Returns `guard`, the number of the process that starts it again.
    """
    if _paused:
        raise OperationError("busy", "something is paused already")
    if not locking.held():
        raise OperationError("not_locked", "only who holds the device may stop what runs there")
    if unit is not None:
        stop, start, check = _commands(unit)
    elif not stop or not start:
        raise OperationError("bad_command", "expected a unit, or a command that stops and one that starts again")
    else:
        check = []
    for argv in (stop, start):
        if shutil.which(argv[0]) is None:
            raise OperationError("bad_command", f"there is no command {argv[0]!r} on this device")
    folder = Path(context.folder) / "paused"
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / f"{os.getpid()}.json"
    note.write_text(json.dumps({"start": start}))
    guard = _start_guard(note)
    _paused.append({"note": note, "guard": guard, "check": check})
    code, said = _run(stop, _STOP_S)
    if code != 0:
        resume(context)
        raise OperationError("not_paused", f"{' '.join(stop)} failed with exit code {code}: {said}")
    return {"guard": guard}


def resume(context: Context) -> dict[str, Any]:
    """Have the guard start again what was stopped, and wait until it has; `running` is what a unit says then."""
    if not _paused:
        return {"resumed": False}
    paused = _paused.pop()
    note: Path = paused["note"]
    note.with_suffix(".done").touch()
    deadline = machine.monotonic_s() + _START_S + _AGAIN_S
    while _runs(paused["guard"]):
        if machine.monotonic_s() > deadline:
            raise OperationError("not_resumed", f"what was stopped does not start again: {_last_words(note)}")
        machine.sleep(0.05)
    if paused["check"] and _run(paused["check"], _START_S)[0] != 0:
        raise OperationError("not_resumed", f"{paused['check'][-1]} was started again and does not run")
    return {"resumed": True}


def _commands(unit: str) -> tuple[list[str], list[str], list[str]]:
    """How to stop and start a unit that runs, with the rights to do so, and how to see that it runs.

    Raises:
        OperationError: it does not run, or this user may not stop it.
    """
    if unit.startswith("-") or not unit.isprintable() or " " in unit:
        raise OperationError("bad_name", f"{unit[:80]!r} is no name of a unit")
    if shutil.which("systemctl") is None:
        raise OperationError("bad_command", "this device has no systemd: use --pause-command and --resume-command")
    for prefix in (["systemctl"], ["systemctl", "--user"]):
        check = [*prefix, "is-active", "--quiet", unit]
        if _run(check, _START_S)[0] == 0:
            break
    else:
        raise OperationError("bad_name", f"the unit {unit} does not run on this device")
    if prefix == ["systemctl"] and os.geteuid() != 0:
        prefix = ["sudo", "-n", "systemctl"]
        allowed = shutil.which("sudo") and all(
            _run(["sudo", "-n", "-l", "systemctl", verb, unit], _START_S)[0] == 0 for verb in ("stop", "start")
        )
        if not allowed:
            raise OperationError(
                "no_rights", f"this user may not stop and start {unit}: log in as root, or let sudo do both unasked"
            )
    return [*prefix, "stop", unit], [*prefix, "start", unit], check


def _start_guard(note: Path) -> int:
    """Start the process that guards this agent, and wait until it does; its number."""
    agent = os.getpid()
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        os.setsid()
        if os.fork() == 0:
            _guard(note, agent, writer)
        os._exit(0)
    os.close(writer)
    os.waitpid(first, 0)
    number = os.read(reader, 20)
    os.close(reader)
    if not number:
        raise OperationError("not_paused", "the process that would start it again could not be started")
    return int(number)


def _guard(note: Path, agent: int, ready: int) -> None:
    """The guard's whole life; it never returns. It writes its number to `ready` once nothing can stop it."""
    try:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        start = json.loads(note.read_text())["start"]
        os.write(ready, str(os.getpid()).encode())
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        os.closerange(3, 256)  # the link, and the lock of the device, among them
        while _runs(agent) and not note.with_suffix(".done").exists():
            machine.sleep(_LOOK_S)
        while True:
            code, said = _run(start, _START_S)
            if code == 0:
                break
            note.with_suffix(".said").write_text(f"{' '.join(start)} failed with exit code {code}: {said}")
            machine.sleep(_AGAIN_S)
        for suffix in (".said", ".done", ".json"):
            note.with_suffix(suffix).unlink(missing_ok=True)
    finally:
        os._exit(0)


def _runs(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    if sys.platform != "linux":
        return True
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _last_words(note: Path) -> str:
    try:
        return note.with_suffix(".said").read_text()
    except OSError:
        return "it has not ended yet"


def _run(argv: list[str], timeout_s: float) -> tuple[int, str]:
    """Exit code and last words of a command; -1 where it did not end in time."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"nothing after {timeout_s:g} s"
    except OSError as error:
        return -1, str(error)
    return done.returncode, done.stdout.decode(errors="replace").strip()[-300:]


OPERATIONS = {"pause": pause, "resume": resume}
