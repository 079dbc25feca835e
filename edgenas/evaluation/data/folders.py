"""A folder of images: one sub-folder a class, or `train/ validation/ test/` above those."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from edgenas.errors import InputError
from edgenas.evaluation.data.dataset import Content, Dataset, Request, cached, check_classes
from edgenas.evaluation.data.images import Pixels, prepare_image

Progress = Callable[[int, int], None]
"""Called with (files done, files in all) while images are decoded."""

_SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
# Files that often lie beside images. Anything else is taken for an image, so that what cannot be read is named.
_BESIDE_IMAGES = {
    ".csv", ".db", ".htm", ".html", ".ini", ".json", ".jsonl", ".md", ".pdf", ".py", ".rst", ".sh", ".toml", ".tsv",
    ".txt", ".xml", ".yaml", ".yml",
}  # fmt: skip
_SHOWN = 5  # left-out files that an error names
_WAVE = 256  # files handed to the threads at a time


@dataclass(frozen=True)
class _File:
    path: Path
    relative: str
    label: str
    part: str  # "train" where the folder gives no splits
    size_bytes: int
    changed_ns: int


def load_folder(
    root: Path,
    request: Request,
    cache: Path,
    group_pattern: str | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The images under `root`; see `load_dataset`."""
    given, files = _find(root, request.source)
    labels = sorted({file.label for file in files})
    index = {label: number for number, label in enumerate(labels)}
    y = np.array([index[file.label] for file in files], np.int64)
    fixed = np.array([file.part for file in files]) if given else None
    check_classes(y, labels, request.source, fixed)
    groups = _groups(files, group_pattern)

    def decode(out: BinaryIO) -> Content:
        digest = hashlib.sha256()
        kept = np.zeros(len(files), bool)
        left_out: list[tuple[str, str]] = []
        contents: set[str] = set()
        for row, (file, content_hash, pixels) in enumerate(_decoded(files, request, progress)):
            digest.update(os.fsencode(file.relative) + b"\0" + content_hash.encode() + b"\n")
            if isinstance(pixels, str):
                left_out.append((_printable(file.relative), pixels))
                if len(left_out) >= _SHOWN:
                    _check_left_out(left_out, len(files), request.source)
            else:
                kept[row] = True
                contents.add(content_hash)
                out.write(pixels.data)
        _check_left_out(left_out, len(files), request.source)
        twice = int(kept.sum()) - len(contents)
        return Content(
            y=y[kept],
            labels=tuple(labels),
            identity=digest.hexdigest(),
            group=None if groups is None else groups[kept],
            fixed=None if fixed is None else fixed[kept],
            left_out=tuple(left_out),
            notes=(f"Files with the same bytes as another: {twice}. Two splits may share an image.",) if twice else (),
        )

    stamps = [[_printable(file.relative), file.size_bytes, file.changed_ns] for file in files]
    return cached(cache, request, [str(root.absolute()), stamps, group_pattern], decode)


def _find(root: Path, source: str) -> tuple[bool, list[_File]]:
    """Whether `root` holds splits, and every file that may be an image, in order."""
    parts = _split_folders(root, source)
    files: list[_File] = []
    classes: dict[str, set[str]] = {}
    for part, folder in sorted(parts.items()) if parts else [("train", root)]:
        folders = _subfolders(folder)
        if not folders:
            raise InputError(
                f"{source}: expected one sub-folder a class in {folder}, received none. "
                "Put the images of each class into a folder with its name."
            )
        classes[part] = {path.name for path in folders}
        for path in folders:
            files += _images(root, path, part)
    for part, names in classes.items():
        if names != classes["train"]:
            odd = sorted(names ^ classes["train"])
            raise InputError(
                f"{source}: expected the same classes in {part} as in train; they differ in {odd[:_SHOWN]}."
            )
    if len(classes["train"]) == 1 and not parts:
        only = _subfolders(root)[0]
        if len(_subfolders(only)) > 1:
            raise InputError(
                f"{source}: expected at least two classes, received only {only.name!r}. Did you mean {only}?"
            )
    return bool(parts), files


def _split_folders(root: Path, source: str) -> dict[str, Path]:
    """The folders of train, validation and test in `root`; empty where its sub-folders are classes."""
    folders = _subfolders(root)
    parts: dict[str, Path] = {}
    others = [path for path in folders if path.name.lower() not in _SPLIT_NAMES]
    for path in folders:
        part = _SPLIT_NAMES.get(path.name.lower())
        if part is None:
            continue
        if part in parts and not others:
            raise InputError(f"{source}: {parts[part].name!r} and {path.name!r} both name the {part} split. Keep one.")
        parts[part] = path
    if not parts or (others and len(parts) == 1):
        return {}
    if others:
        raise InputError(
            f"{source}: expected only train, validation and test, received also {others[0].name!r}. "
            "Move it out, or rename the folders if they are classes."
        )
    if "train" not in parts:
        raise InputError(f"{source}: expected a folder 'train' beside {sorted(parts)}, received none.")
    return parts


def _subfolders(folder: Path) -> list[Path]:
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        _unreadable_folder(error)
    return [path for path in found if not path.name.startswith(".") and path.name != "__MACOSX"]


def _unreadable_folder(error: OSError) -> NoReturn:
    raise InputError(f"The folder {error.filename} cannot be read: {error.strerror}.") from None


def _images(root: Path, folder: Path, part: str) -> Iterator[_File]:
    """All files below a class folder that may be images; hidden ones are not, links are followed."""
    seen: set[str] = set()
    for here, below, names in os.walk(folder, onerror=_unreadable_folder, followlinks=True):
        real = os.path.realpath(here)
        below[:] = [] if real in seen else sorted(name for name in below if not name.startswith("."))
        if real in seen:
            continue
        seen.add(real)
        for name in sorted(names):
            path = Path(here, name)
            if name.startswith(".") or path.suffix.lower() in _BESIDE_IMAGES:
                continue
            try:
                status = path.stat()
                size_bytes, changed_ns = status.st_size, status.st_mtime_ns
            except OSError:
                size_bytes, changed_ns = -1, -1  # a broken link: decoding it says so
            yield _File(path, path.relative_to(root).as_posix(), folder.name, part, size_bytes, changed_ns)


def _decoded(
    files: list[_File], request: Request, progress: Progress | None
) -> Iterator[tuple[_File, str, Pixels | str]]:
    """(file, hash of its content, pixels or why there are none), in order, by a pool of threads.

    Decoding and scaling run outside Python's lock. A few hundred images are held at a time.
    """

    def decode(file: _File) -> tuple[_File, str, Pixels | str]:
        try:
            if file.size_bytes >= 0 and not file.path.is_file():
                return file, "", "no regular file"
            content = file.path.read_bytes()
        except OSError as error:
            return file, "", error.strerror or str(error)
        content_hash = hashlib.sha256(content).hexdigest()
        try:
            return file, content_hash, prepare_image(content, request.input_shape, request.policy)
        except InputError as error:
            return file, content_hash, str(error)

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for start in range(0, len(files), _WAVE):
            yield from pool.map(decode, files[start : start + _WAVE])
            if progress is not None:
                progress(min(start + _WAVE, len(files)), len(files))


def _check_left_out(left_out: list[tuple[str, str]], total: int, source: str) -> None:
    if len(left_out) * 100 <= total:
        return
    first = "; ".join(f"{path}: {reason}" for path, reason in left_out[:_SHOWN])
    raise InputError(
        f"{source}: more than 1% of {total} files are no readable images ({first}"
        f"{'; ...' if len(left_out) > _SHOWN else ''}). Repair or remove them."
    )


def _groups(files: list[_File], pattern: str | None) -> np.ndarray[tuple[int, ...], np.dtype[np.str_]] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"The group pattern {pattern!r} is no regular expression: {error}.") from None
    if not compiled.groups:
        raise InputError(f"The group pattern {pattern!r} marks no group: put (parentheses) around what names it.")
    names = []
    for file in files:
        match = compiled.search(file.relative)
        if match is None or match.group(1) is None:
            raise InputError(f"The group pattern {pattern!r} does not match {_printable(file.relative)!r}.")
        names.append(_printable(match.group(1)))
    return np.array(names)


def _printable(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
