"""Releases of models on the device: staged, verified, switched to in one rename, and back.

Below `FOLDER/models/NAME/`: `releases/N/` with N growing, `current` a link to one of them, `history.jsonl`.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import store
from .context import Context, OperationError
from .signatures import MANIFEST, SIGNATURE, check_signature
from .store import sync

_MODEL = "model.tflite"
NEEDED = (_MODEL, "labels.txt")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LARGEST_NUMBER = 10**18
_LOCK_S = 20
_numbers = itertools.count()


def prepare(
    context: Context, name: str, release: int, files: dict[str, dict[str, Any]], spare_bytes: int = 0
) -> dict[str, Any]:
    """What has to be sent for a release of these files (name -> `sha256`, `size_bytes`); see `store.want`.

    `spare_bytes` are needed besides, while the release is checked. What earlier attempts left is removed.
    """
    model = _model(context, name, must_exist=False)
    _check_number(model, release)
    for file in files:
        _check_file_name(file)
    _remove_staging(model)
    return store.want(context, {file["sha256"]: file["size_bytes"] for file in files.values()}, spare_bytes)


def stage(context: Context, name: str, release: int, files: dict[str, str]) -> dict[str, Any]:
    """A folder with the files of a release (name -> SHA-256), verified, signature included.

    Returns it as `folder`, with a `scratch` folder beside it for what its checks need, and `signed_by`. A release that
    lies there whole already, from an attempt that was cut, is that folder itself.
    """
    model = _model(context, name, must_exist=False)
    _check_number(model, release)
    for file in files:
        _check_file_name(file)
    staging = model / f".staging-{os.getpid()}-{next(_numbers)}"
    (staging / "scratch").mkdir(parents=True)
    final = model / "releases" / str(release)
    if final.is_dir() and _is_whole(context, final, release, files):
        folder = final
    else:
        if final.is_dir():
            _remove_damaged(model, final, release, files)
        folder = staging / "release"
        folder.mkdir()
        store.build(context, files, folder)
    return {"folder": str(folder), "scratch": str(staging / "scratch"), **verify_folder(context, folder, release)}


def activate(
    context: Context, name: str, release: int, folder: str, record: dict[str, Any], keep: int = 2
) -> dict[str, Any]:
    """Make a staged release the live one: after a power cut at any moment the old or the new one is live.

    The new one is read once more through the link, and the history is written; should either fail, the old one is live
    again. The last `keep` releases stay.
    """
    model = _model(context, name)
    with _switching(model):
        _check_number(model, release)
        source, final = _staged(model, folder, release), model / "releases" / str(release)
        verify_folder(context, source, release)
        if source != final:
            for file in source.iterdir():
                sync(file)
            sync(source)
            final.parent.mkdir(exist_ok=True)
            source.rename(final)
            sync(final.parent)
        before = _live(model)
        note = {"event": "activate", "release": release, "at": _now(), "record": record}
        if before != release:
            try:
                _switch(model, release)
                verify_folder(context, model / "current", release)
                _note(model, note)
            except (OperationError, OSError) as error:
                _switch_back(model, before)
                raise OperationError("not_active", f"the new release could not be made live: {error}") from None
        elif release not in _activated(model):  # the note of a switch that was cut is made up for
            _note(model, note)
        kept = {release, _previous(model), *sorted(_on_disk(model))[-max(keep, 2) :]}
        for old in set(_on_disk(model)) - kept:
            shutil.rmtree(model / "releases" / str(old))
        _remove_staging(model)
        store.sweep(context, set())
    return {"release": release, "previous": before}


def rollback(context: Context, name: str, to: int | None = None) -> dict[str, Any]:
    """Make an earlier release the live one again: the one that was live before, or one of the history's."""
    model = _model(context, name)
    with _switching(model):
        live = _live(model)
        earlier = _previous(model) if to is None else to
        if to is not None and (to not in _on_disk(model) or to not in _activated(model)):
            kept = ", ".join(str(number) for number in sorted(_on_disk(model)) if number in _activated(model))
            raise OperationError("no_previous", f"release {to} of {name} is not kept on this device; it has {kept}")
        if earlier is None or earlier == live:
            raise OperationError("no_previous", f"{name} has no earlier release on this device")
        verify_folder(context, model / "releases" / str(earlier), earlier)
        _switch(model, earlier)
        _note(model, {"event": "rollback", "release": earlier, "at": _now(), "from": live})
    return {"release": earlier, "from": live}


def discard(context: Context, name: str, files: list[str]) -> dict[str, Any]:
    """Remove what was staged for a model, and files of the store (SHA-256) that no release holds."""
    model = _model(context, name, must_exist=False)
    _remove_staging(model)
    store.forget(context, files)
    for folder in (model / "releases", model):
        with contextlib.suppress(OSError):  # it has something in it, or is not there
            if not any(path.name != ".lock" for path in folder.iterdir()):
                shutil.rmtree(folder)
    return {}


def verify(context: Context, name: str) -> dict[str, Any]:
    """Check the live release of a model in place: its `release`, `folder`, `signed_by`, and its manifest's hash."""
    model = _model(context, name)
    live = _live(model)
    if live is None:
        raise OperationError("unknown_model", f"no release of {name!r} is live on this device")
    folder = model / "releases" / str(live)
    found = verify_folder(context, folder, live)
    return {"release": live, "folder": str(folder), "manifest_sha256": store.sha256(folder / MANIFEST), **found}


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


def verify_folder(context: Context, folder: Path, release: int) -> dict[str, Any]:
    """Whether a folder holds this release, whole: every file is what the manifest says, and that is signed as it must.

    Samples that the manifest names may be missing: they do not stay on devices.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        hashes = {str(name): str(sha) for name, sha in manifest["files"].items()}
        number = manifest["release"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise OperationError("hash_mismatch", f"{MANIFEST} of release {release} cannot be read") from None
    signed_by = check_signature(context, folder)
    if number != release:
        raise OperationError("hash_mismatch", f"{MANIFEST} is of release {number!r}, expected {release}")
    present = {path.name for path in folder.iterdir()} - {MANIFEST, SIGNATURE}
    for missing in sorted(set(NEEDED) - (present & set(hashes))):
        raise OperationError("hash_mismatch", f"{missing} is missing in release {release}")
    for odd in sorted(present - set(hashes)):
        raise OperationError("hash_mismatch", f"{odd!r} was not expected in release {release}")
    for name in sorted(present):
        received = store.sha256(folder / name)
        # A bundle may hold its network in more than one precision: the model of a release is one of these files.
        good = [sha for file, sha in hashes.items() if file == name or (name == _MODEL and file.startswith("model_"))]
        if received not in good:
            raise OperationError("hash_mismatch", f"{name}: expected sha256 {hashes[name]}, received {received}")
    return {"files": len(present) + 1, "signed_by": signed_by}


def _is_whole(context: Context, folder: Path, release: int, files: dict[str, str]) -> bool:
    """Whether a release on disk is whole and has exactly these files; raises where it may not be live at all."""
    try:
        verify_folder(context, folder, release)
        return {path.name: store.sha256(path) for path in folder.iterdir()} == files
    except OperationError as error:
        if error.kind != "hash_mismatch":
            raise
    except OSError:
        pass
    return False


def _remove_damaged(model: Path, final: Path, release: int, files: dict[str, str]) -> None:
    """Make room for a release whose folder on disk is not whole; never for another one of the same number."""
    with contextlib.suppress(OSError):
        if store.sha256(final / MANIFEST) != files.get(MANIFEST):
            raise OperationError(
                "replayed",
                f"release {release} of {model.name} on this device is another bundle; "
                "a bundle gets a new number with: edgenas sign BUNDLE",
            )
    if _live(model) == release:
        raise OperationError(
            "hash_mismatch",
            f"the live release {release} of {model.name} is damaged on this device; go back with edgenas rollback, or "
            "give the bundle a new number with: edgenas sign BUNDLE",
        )
    shutil.rmtree(final)


def _check_number(model: Path, release: int) -> None:
    """A release is never followed by an older one: it would be a replay. `rollback` is the way back."""
    if not isinstance(release, int) or isinstance(release, bool) or not 0 < release < _LARGEST_NUMBER:
        raise OperationError("bad_name", f"{release!r} is no number for a release")
    live = _live(model)
    newest = max([*_activated(model), live or 0], default=0)
    if release < newest and release != live:
        raise OperationError(
            "replayed",
            f"release {release} of {model.name} is older than release {newest}, which this device has had; "
            "back to what it still keeps: edgenas rollback; a bundle gets a new number with: edgenas sign BUNDLE",
        )


def _model(context: Context, name: str, must_exist: bool = True) -> Path:
    """The folder of a model, its name checked here as well."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OperationError("bad_name", f"{name!r} is no name for a model")
    if must_exist and not (context.models / name).is_dir():
        raise OperationError("unknown_model", f"no model {name!r} was ever put on this device")
    return context.models / name


def _check_file_name(name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OperationError("bad_name", f"{name!r} is no name for a file of a release")


def _staged(model: Path, path: str, release: int) -> Path:
    """The folder of a staged release, if it really is one."""
    real, home = Path(path).resolve(), model.resolve()
    staged = real.name == "release" and real.parent.name.startswith(".staging-") and real.parent.parent == home
    if not (staged or real == home / "releases" / str(release)):
        raise OperationError("bad_staging", f"{path!r} is no release staged for {model.name!r}")
    if not real.is_dir():
        raise OperationError("bad_staging", f"the staged release {path!r} is gone")
    return real if staged else model / "releases" / str(release)


def _remove_staging(model: Path) -> None:
    for old in model.glob(".staging-*"):
        if old.is_symlink() or not old.is_dir():
            old.unlink()
        else:
            shutil.rmtree(old)


@contextlib.contextmanager
def _switching(model: Path) -> Iterator[None]:
    """One switch at a time."""
    descriptor = os.open(model / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        for attempt in range(_LOCK_S * 10 + 1):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if attempt == _LOCK_S * 10:
                    raise OperationError("busy", f"another release of {model.name} is being switched to") from None
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def _live(model: Path) -> int | None:
    try:
        return int(os.readlink(model / "current").rpartition("/")[2])  # noqa: PTH115
    except (OSError, ValueError):
        return None


def _on_disk(model: Path) -> list[int]:
    releases = model / "releases"
    return [int(path.name) for path in releases.iterdir() if path.name.isdigit()] if releases.is_dir() else []


def _activated(model: Path) -> list[int]:
    """Every release that ever was live here."""
    return [event["release"] for event in _history(model)]


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
    sync(model)


def _switch_back(model: Path, before: int | None) -> None:
    if _live(model) == before:
        return  # the switch itself had failed
    if before is None:
        (model / "current").unlink()
        sync(model)
    else:
        _switch(model, before)


def _history(model: Path) -> list[dict[str, Any]]:
    """What happened; a last line torn by a power cut is left out."""
    events = []
    path = model / "history.jsonl"
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            event = json.loads(line)
            if isinstance(event["release"], int) and event["event"] in ("activate", "rollback"):
                events.append(event)
        except (ValueError, KeyError, TypeError):
            continue
    return events


def _note(model: Path, event: dict[str, Any]) -> None:
    path = model / "history.jsonl"
    size = path.stat().st_size if path.is_file() else 0
    torn = size and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        try:
            file.write(("\n" if torn else "") + json.dumps(event) + "\n")
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)  # what did not come to pass is not history
            raise


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


OPERATIONS = {
    "prepare": prepare,
    "stage": stage,
    "activate": activate,
    "rollback": rollback,
    "discard": discard,
    "verify": verify,
    "deployed": deployed,
}
