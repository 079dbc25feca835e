"""Releases of models on the device: staged, verified, switched to in one rename, and back.

Below `FOLDER/models/NAME/`: `releases/N/` with N growing, `current` a link to one of them, `history.jsonl`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

from . import store
from .context import Context, OperationError
from .signatures import MANIFEST, SIGNATURE, check_signature
from .store import make_folder, sync
from .switching import (
    history,
    live,
    make_up,
    note,
    on_disk,
    one_at_a_time,
    previous,
    switch,
    switch_back,
    unheard,
    were_live,
)

_MODEL = "model.tflite"
NEEDED = (_MODEL, "labels.txt")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LARGEST_NUMBER = 10**18
_MOST_BYTES = 4 << 20  # of a manifest; the host's limit is the same
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
    make_folder(model)
    staging = _new_staging(model)
    (staging / "scratch").mkdir(parents=True)
    if _is_there(context, model, release, files):
        folder = _folder(model, release)
    else:
        folder = staging / "release"
        folder.mkdir()
        store.build(context, files, folder)
    return {"folder": str(folder), "scratch": str(staging / "scratch"), **verify_folder(context, folder, release)}


def activate(
    context: Context, name: str, release: int, folder: str, record: dict[str, Any], keep: int = 2
) -> dict[str, Any]:
    """Make a staged release the live one: after a power cut at any moment the old or the new one is live.

    The new one is read once more through the link, and the history is written; should either fail, the old one is live
    again, and the new one is removed. The last `keep` releases that were live stay.
    """
    model = _model(context, name)
    with one_at_a_time(model):
        _check_number(model, release)
        source, final = _staged(model, folder, release), _folder(model, release)
        verify_folder(context, source, release)
        if source != final:
            for file in source.iterdir():
                sync(file)
            sync(source)
            make_folder(final.parent)
            source.rename(final)
        sync(final.parent)  # an attempt that was cut may not have come to that
        before = live(model)
        if before == release:
            make_up(model, record)
        else:
            _make_live(context, model, release, "activate", record=record)
        _prune(model, {release, previous(model)}, max(keep, 2))
        _remove_staging(model)
        store.sweep(context, set())
    return {"release": release, "previous": before}


def rollback(context: Context, name: str, to: int | None = None) -> dict[str, Any]:
    """Make an earlier release the live one again: the one that was live before, or one of the history's.

    The host says `heard` to the answer. Until then the same call gives the same answer, and does not go back further.
    """
    model = _model(context, name)
    with one_at_a_time(model):
        make_up(model)
        here, cut = live(model), unheard(model)
        earlier = previous(model) if to is None else to
        if here is not None and (to == here or (to is None and cut is not None)):
            verify_folder(context, model / "current", here)
            return {"release": here, "from": here if cut is None else cut.get("from")}
        kept = sorted(were_live(model) & set(on_disk(model)))
        if to is not None and to not in kept:
            those = ", ".join(map(str, kept)) or "none"
            raise OperationError("no_previous", f"release {to} of {name} is not kept on this device; it has {those}")
        if earlier is None:
            raise OperationError("no_previous", f"{name} has no earlier release on this device")
        verify_folder(context, _folder(model, earlier), earlier)
        _make_live(context, model, earlier, "rollback", heard=False, **{"from": here})
    return {"release": earlier, "from": here}


def heard(context: Context, name: str, release: int) -> dict[str, Any]:
    """The host knows that it went back to this release: who asks for a rollback from now on wants another one."""
    model = _model(context, name)
    with one_at_a_time(model):
        cut = unheard(model)
        if cut is not None and cut["release"] == release:
            note(model, "heard", release)
    return {}


def discard(context: Context, name: str, files: list[str], release: int | None = None) -> dict[str, Any]:
    """Remove what was staged for a model, a release unless it ever was live, and files of the store (SHA-256) that no
    release holds."""
    model = _model(context, name, must_exist=False)
    if release in on_disk(model) and release not in were_live(model):
        _set_aside(model, release)
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
    here = live(model)
    if here is None:
        raise OperationError("unknown_model", f"no release of {name!r} is live on this device")
    folder = _folder(model, here)
    found = verify_folder(context, folder, here)
    return {"release": here, "folder": str(folder), "manifest_sha256": store.sha256(folder / MANIFEST), **found}


def deployed(context: Context) -> list[dict[str, Any]]:
    """What is live on this device, model by model; where that cannot be told, "wrong" says why."""
    found = [_deployed(model) for model in filter(Path.is_dir, store.entries(context.models))]
    return [said for said in found if said is not None]


def _deployed(model: Path) -> dict[str, Any] | None:
    nothing: dict[str, Any] = {"name": model.name, "release": None, "previous": None, "since": None, "record": None}
    try:
        here = live(model)
        if here is None:
            return None
        events = [event for event in history(model) if event["release"] == here]
        since = events[-1]["at"] if events else None
        return {**nothing, "release": here, "previous": previous(model), "since": since, "record": _record(model, here)}
    except (OperationError, OSError) as error:  # one that is spoiled hides none of the others
        return {**nothing, "wrong": str(error)}


def verify_folder(context: Context, folder: Path, release: int) -> dict[str, Any]:
    """Whether a folder holds this release, whole: every file is what the manifest says, and that is signed as it must.

    Samples that the manifest names may be missing: they do not stay on devices.
    """
    inside = store.entries(folder)
    for path in inside:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode):  # a link can lead to something else tomorrow
            raise OperationError("hash_mismatch", f"{path.name!r} in release {release} is no file of its own")
        if path.name in (MANIFEST, SIGNATURE) and about.st_size > _MOST_BYTES:
            raise OperationError("hash_mismatch", f"{path.name} of release {release} has {about.st_size} bytes")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        hashes = {str(name): str(sha) for name, sha in manifest["files"].items()}
        number = manifest["release"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise OperationError("hash_mismatch", f"{MANIFEST} of release {release} cannot be read") from None
    signed_by = check_signature(context, folder)
    if number != release:
        raise OperationError("hash_mismatch", f"{MANIFEST} is of release {number!r}, expected {release}")
    present = {path.name for path in inside} - {MANIFEST, SIGNATURE}
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
    return {"signed_by": signed_by}


def _is_there(context: Context, model: Path, release: int, files: dict[str, str]) -> bool:
    """Whether a release lies there whole, with exactly these files. What was never live makes room for them.

    What was live keeps its number. Only where it is damaged, and not live now, may the very files that it had (the
    history says which) take its place.
    """
    final = _folder(model, release)
    if not final.is_dir():
        return False
    damage = _damage(context, final, release)
    if damage is None and {path.name: store.sha256(path) for path in final.iterdir()} == files:
        return True
    if release in were_live(model):
        _refuse_to_replace(model, release, files, damage)
    _set_aside(model, release)
    return False


def _damage(context: Context, folder: Path, release: int) -> str | None:
    """In what a release on disk is not what its own manifest says; raises where it may not be live at all."""
    try:
        verify_folder(context, folder, release)
    except OperationError as error:
        if error.kind != "hash_mismatch":
            raise
        return error.message
    except OSError as error:
        return str(error)
    return None


def _refuse_to_replace(model: Path, release: int, files: dict[str, str], damage: str | None) -> None:
    """Raise for files that may not take the place of a release that was live."""
    what, is_live = f"release {release} of {model.name}", live(model) == release
    if damage is None:
        same = store.sha256(_folder(model, release) / MANIFEST) == files.get(MANIFEST)
        how = "with other files of this bundle (in another precision)" if same else "and is another bundle"
        where = "live" if is_live else "kept"
        raise OperationError("replayed", f"{what} is {where} on this device {how}; {_new_number(model)}")
    if is_live:
        raise OperationError(
            "hash_mismatch",
            f"the live {what} is damaged on this device ({damage}); go back with edgenas rollback, or: "
            f"{_new_number(model)}",
        )
    if files != (_record(model, release) or {}).get("sha256"):
        raise OperationError(
            "hash_mismatch",
            f"{what} is damaged on this device ({damage}), and only the files that it had may take its place; "
            f"{_new_number(model)}",
        )


def _make_live(context: Context, model: Path, release: int, event: str, **more: Any) -> None:
    """Switch to a release, read it once more through the link, and note it.

    Should anything fail, what was live is live again, and a release that never was is removed.
    """
    before = live(model)
    try:
        make_up(model)
        switch(model, release)
        verify_folder(context, model / "current", release)
        note(model, event, release, **more)
    except (OperationError, OSError) as error:
        switch_back(model, before)
        if release not in were_live(model):
            with contextlib.suppress(OSError):  # a disk that fails: `discard` tries again
                _set_aside(model, release)
        now = "nothing" if before is None else f"release {before}"
        raise OperationError(
            "not_active", f"release {release} of {model.name} could not be made live: {error}; live is {now}"
        ) from None


def _prune(model: Path, needed: set[int | None], keep: int) -> None:
    """Remove releases but those needed and the last `keep` of those that were live."""
    kept = needed | set(sorted(were_live(model) & set(on_disk(model)))[-keep:])
    for old in set(on_disk(model)) - kept:
        _set_aside(model, old)


def _set_aside(model: Path, release: int) -> None:
    """Take a release's folder away in one step: cut while it is removed, there is none with half of its files."""
    aside = _new_staging(model)
    _folder(model, release).rename(aside)
    shutil.rmtree(aside)


def _record(model: Path, release: int) -> dict[str, Any] | None:
    """What was known of a release when it was last shipped."""
    records = [event.get("record") for event in history(model) if event["release"] == release]
    return next((record for record in reversed(records) if isinstance(record, dict)), None)


def _new_number(model: Path) -> str:
    """What to do about a number that is taken or passed."""
    return f"a bundle gets a new number with: edgenas sign BUNDLE --after {max(were_live(model), default=0)}"


def _check_number(model: Path, release: int) -> None:
    """A release is never followed by an older one: it would be a replay. `rollback` is the way back."""
    if not isinstance(release, int) or isinstance(release, bool) or not 0 < release < _LARGEST_NUMBER:
        raise OperationError("bad_name", f"{release!r} is no number for a release")
    newest = max(were_live(model), default=0)
    if release < newest and release != live(model):
        raise OperationError(
            "replayed",
            f"release {release} of {model.name} is older than release {newest}, which this device has had; "
            f"back to what it still keeps: edgenas rollback; {_new_number(model)}",
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


def _folder(model: Path, release: int) -> Path:
    return model / "releases" / str(release)


def _new_staging(model: Path) -> Path:
    return model / f".staging-{os.getpid()}-{next(_numbers)}"


def _remove_staging(model: Path) -> None:
    for old in model.glob(".staging-*"):
        if old.is_symlink() or not old.is_dir():
            old.unlink()
        else:
            shutil.rmtree(old)


OPERATIONS = {
    "prepare": prepare,
    "stage": stage,
    "activate": activate,
    "rollback": rollback,
    "heard": heard,
    "discard": discard,
    "verify": verify,
    "deployed": deployed,
}
