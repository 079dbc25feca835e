"""Which release of a model is live: the link, its history, and the one way from a release to another.

`current` is the truth. `history.jsonl` has one note a switch, written after it: a last note of another release than the
live one is a switch that was cut before it was noted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import machine
from .context import OperationError
from .store import entries, is_there, read, sync

_LOCK_S = 20
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_LINK = re.compile(f"releases/({_NUMBER.pattern})")


@contextlib.contextmanager
def one_at_a_time(model: Path) -> Iterator[None]:
    """Nobody else switches this model meanwhile."""
    descriptor = os.open(model / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        deadline = machine.monotonic_s() + _LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if machine.monotonic_s() > deadline:
                    raise OperationError("busy", f"another release of {model.name} is being switched to") from None
                machine.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def live(model: Path) -> int | None:
    """The release that is live; None: none is.

    Raises:
        OperationError: what is called `current` is no link to one of the model's own releases.
    """
    link = model / "current"
    if not is_there(link):
        return None
    try:
        leads_to = os.readlink(link)  # noqa: PTH115
    except OSError as error:
        leads_to = f"nowhere: {error.strerror}"
    match = _LINK.fullmatch(leads_to)
    inside = not any(
        path.is_symlink() for path in (model / "releases", model / "releases" / leads_to.rpartition("/")[2])
    )
    if match is None or not inside:
        raise OperationError(
            "hash_mismatch",
            f"{link} is no link to one of its releases (it leads to {leads_to[:200]!r}): EdgeNAS did not make it so. "
            "Remove it there, and ship again",
        )
    return int(match[1])


def on_disk(model: Path) -> list[int]:
    """The releases that lie there, live or not."""
    return [int(path.name) for path in entries(model / "releases") if _NUMBER.fullmatch(path.name)]


def were_live(model: Path) -> set[int]:
    """Every release that is or ever was live here."""
    here = live(model)
    return {event["release"] for event in history(model)} | (set() if here is None else {here})


def previous(model: Path) -> int | None:
    """The release before the live one, of those that lie there."""
    way = way_back(history(model), live(model))
    earlier = [release for release in way[:-1] if release in on_disk(model)]
    return earlier[-1] if earlier else None


def switch(model: Path, release: int) -> None:
    """Make a release live, in one rename."""
    beside = model / ".current-new"
    if beside.is_symlink():
        beside.unlink()
    beside.symlink_to(f"releases/{release}")
    beside.replace(model / "current")
    sync(model)


def switch_back(model: Path, before: int | None) -> None:
    """Make live what was before a switch."""
    if live(model) == before:
        return  # the switch itself had failed
    if before is None:
        (model / "current").unlink()
        sync(model)
    else:
        switch(model, before)


def history(model: Path) -> list[dict[str, Any]]:
    """Every switch that was noted."""
    return [event for event in _events(model) if event["event"] != "heard"]


def note(model: Path, event: str, release: int, **more: Any) -> None:
    """Write down what happened, whole or not at all."""
    path = model / "history.jsonl"
    size = path.stat().st_size if is_there(path) else 0
    torn = size and not path.read_bytes().endswith(b"\n")
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"event": event, "release": release, "at": at, **more}) + "\n"
    with path.open("a") as file:
        try:
            file.write(("\n" if torn else "") + line)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)  # what did not come to pass is not history
            raise
    if not size:
        sync(model)  # the file is new


def make_up(model: Path, record: dict[str, Any] | None = None) -> None:
    """Note the last switch where it was cut before that, as what it must have been.

    `record` is what is known of the live release.
    """
    here, noted = live(model), history(model)
    if here is None or (noted and noted[-1]["release"] == here):
        return
    if here in way_back(noted):
        note(model, "rollback", here, heard=False, **{"from": noted[-1]["release"]})
    else:
        note(model, "activate", here, record=record)


def unheard(model: Path) -> dict[str, Any] | None:
    """The last switch, where it was a rollback and its host may not have got the answer.

    Whoever asks for a rollback then asks for that one again. Nothing else tells the two apart: a link that broke before
    the answer came looks to the host like one that broke before the switch.
    """
    for event in _events(model)[-1:]:
        if event["event"] == "rollback" and event.get("heard") is False and event["release"] == live(model):
            return event
    return None


def _events(model: Path) -> list[dict[str, Any]]:
    """What happened; a last line torn by a power cut is left out.

    Raises:
        OSError: it cannot be read: then nobody knows which releases would be replays.
    """
    events = []
    path = model / "history.jsonl"
    for line in read(path).decode(errors="replace").splitlines() if is_there(path) else []:
        try:
            event = json.loads(line)
            if isinstance(event["release"], int) and event["event"] in ("activate", "rollback", "heard"):
                events.append(event)
        except (ValueError, KeyError, TypeError):
            continue
    return events


def way_back(events: Iterable[Mapping[str, Any]], here: int | None = None) -> list[int]:
    """The releases to go back through, the live one last.

    `events` is the history, oldest first; `here` the live release, which is the truth: the note of the last switch may
    be lost. None: by the history alone.
    """
    stack: list[int] = []
    for event in events:
        release = event["release"]
        if event["event"] == "rollback" and release in stack:
            del stack[stack.index(release) + 1 :]
        else:
            stack.append(release)
    if here in stack:
        del stack[stack.index(here) + 1 :]
    elif here is not None:
        stack.append(here)
    return stack
