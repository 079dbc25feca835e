"""Releases of models on the device: staged, verified, switched to in one rename, and back.

Below `FOLDER/models/NAME/`: `releases/N/` with N growing, `current` a link to one of them, `history.jsonl`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from .context import Context, OperationError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MARGIN_BYTES = 1 << 20
_numbers = itertools.count()


def file_hash(context: Context, path: str) -> dict[str, Any]:
    """SHA-256 and size of a file."""
    return {"sha256": _sha256(Path(path)), "size_bytes": Path(path).stat().st_size}


def stage(context: Context, name: str, bytes_needed: int) -> dict[str, Any]:
    """An empty folder for the files of a new release, if there is room for them."""
    model = _model(context, name, must_exist=False)
    model.mkdir(parents=True, exist_ok=True)
    for old in model.glob(".staging-*"):
        shutil.rmtree(old)
    free = shutil.disk_usage(model).free
    if free < bytes_needed + _MARGIN_BYTES:
        raise OperationError(
            "no_space",
            f"{name} needs {bytes_needed / 1e6:.1f} MB and 1 MB to spare; the device has {free / 1e6:.1f} MB free",
        )
    staging = model / f".staging-{os.getpid()}-{next(_numbers)}"
    staging.mkdir()
    return {"staging": str(staging), "free_bytes": free}


def verify_staged(context: Context, staging: str, hashes: dict[str, str]) -> dict[str, Any]:
    """Whether exactly these files are in the staging folder, each with its SHA-256."""
    folder = _staging(context, staging)
    present = {path.name for path in folder.iterdir()}
    for odd in sorted(present ^ set(hashes)):
        problem = "was not expected" if odd in present else "is missing"
        raise OperationError("hash_mismatch", f"{odd} {problem} among the files received")
    for file, expected in sorted(hashes.items()):
        received = _sha256(folder / file)
        if received != expected:
            raise OperationError("hash_mismatch", f"{file}: expected sha256 {expected}, received {received}")
    return {"files": len(hashes)}


def activate(context: Context, name: str, staging: str, record: dict[str, Any], keep: int = 2) -> dict[str, Any]:
    """Make a staged release the live one: after a power cut at any moment the old or the new one is live."""
    model, source = _model(context, name), _staging(context, staging)
    if source.parent != model.resolve():
        raise OperationError("bad_staging", f"{staging!r} was staged for another model than {name!r}")
    releases = model / "releases"
    releases.mkdir(exist_ok=True)
    for file in source.iterdir():
        _sync(file)
    _sync(source)
    known = [event["release"] for event in _history(model)] + _on_disk(model)
    number = max(known, default=0) + 1
    source.rename(releases / str(number))
    _sync(releases)
    before = _live(model)
    _switch(model, number)
    _note(model, {"event": "activate", "release": number, "at": _now(), "record": record})
    kept = {number, _previous(model), *sorted(_on_disk(model))[-max(keep, 2) :]}
    for old in set(_on_disk(model)) - kept:
        shutil.rmtree(releases / str(old))
    return {"release": number, "previous": before}


def rollback(context: Context, name: str) -> dict[str, Any]:
    """Make the release that was live before the live one again."""
    model = _model(context, name)
    live, earlier = _live(model), _previous(model)
    if earlier is None:
        raise OperationError("no_previous", f"{name} has no earlier release on this device")
    _switch(model, earlier)
    _note(model, {"event": "rollback", "release": earlier, "at": _now(), "from": live})
    return {"release": earlier, "from": live}


def discard(context: Context, staging: str) -> dict[str, Any]:
    """Remove a staging folder."""
    shutil.rmtree(_staging(context, staging))
    return {}


def deployed(context: Context) -> list[dict[str, Any]]:
    """What is live on this device, model by model."""
    found = []
    for model in sorted(context.models.iterdir()) if context.models.is_dir() else []:
        live = _live(model)
        if live is None:
            continue
        events = [event for event in _history(model) if event["release"] == live]
        records = [event["record"] for event in events if event["event"] == "activate"]
        found.append(
            {
                "name": model.name,
                "release": live,
                "previous": _previous(model),
                "since": events[-1]["at"] if events else None,
                "record": records[-1] if records else None,
            }
        )
    return found


def _model(context: Context, name: str, must_exist: bool = True) -> Path:
    """The folder of a model, its name checked here as well."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OperationError("bad_name", f"{name!r} is no name for a model")
    if must_exist and not (context.models / name).is_dir():
        raise OperationError("unknown_model", f"no model {name!r} was ever put on this device")
    return context.models / name


def _staging(context: Context, path: str) -> Path:
    """A staging folder, if it really is one."""
    real = Path(path).resolve()
    if real.parent.parent != context.models.resolve() or not real.name.startswith(".staging-"):
        raise OperationError("bad_staging", f"{path!r} is no staging folder")
    if not real.is_dir():
        raise OperationError("bad_staging", f"the staging folder {path!r} is gone")
    return real


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def _live(model: Path) -> int | None:
    try:
        return int(os.readlink(model / "current").rpartition("/")[2])  # noqa: PTH115
    except (OSError, ValueError):
        return None


def _on_disk(model: Path) -> list[int]:
    releases = model / "releases"
    return [int(path.name) for path in releases.iterdir() if path.name.isdigit()] if releases.is_dir() else []


def _stack(model: Path) -> list[int]:
    """The releases to go back through, the live one last."""
    stack: list[int] = []
    for event in _history(model):
        release = event["release"]
        if event["event"] == "rollback" and release in stack:
            del stack[stack.index(release) + 1 :]
        else:
            stack.append(release)
    live = _live(model)
    if live in stack:  # the link is the truth; the note after the last switch may be lost
        del stack[stack.index(live) + 1 :]
    elif live is not None:
        stack.append(live)
    return stack


def _previous(model: Path) -> int | None:
    earlier = [release for release in _stack(model)[:-1] if release in _on_disk(model)]
    return earlier[-1] if earlier else None


def _switch(model: Path, number: int) -> None:
    beside = model / ".current-new"
    if beside.is_symlink():
        beside.unlink()
    beside.symlink_to(f"releases/{number}")
    beside.replace(model / "current")
    _sync(model)


def _history(model: Path) -> list[dict[str, Any]]:
    """What happened; a last line torn by a power cut is left out."""
    events = []
    path = model / "history.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            event = json.loads(line)
            if isinstance(event["release"], int) and event["event"] in ("activate", "rollback"):
                events.append(event)
        except (ValueError, KeyError, TypeError):
            continue
    return events


def _note(model: Path, event: dict[str, Any]) -> None:
    path = model / "history.jsonl"
    torn = path.is_file() and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write(("\n" if torn else "") + json.dumps(event) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


OPERATIONS = {
    "hash": file_hash,
    "stage": stage,
    "verify_staged": verify_staged,
    "activate": activate,
    "rollback": rollback,
    "discard": discard,
    "deployed": deployed,
}
