"""A folder of images: one sub-folder a class, or `train/ validation/ test/` above those."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgenas.errors import InputError, reading, shown
from edgenas.evaluation.data.dataset import Content, Dataset, Request, cached, check_classes
from edgenas.evaluation.data.images import UNUSED, Pixels, decode_image
from edgenas.evaluation.data.layout import find_classes, is_of_a_program, unreadable_folder

Progress = Callable[[int, int], None]
"""Called with (files done, files in all) while images are decoded."""

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
    layout = find_classes(root, request.source)
    files = [
        file
        for part, folders in sorted(layout.folders.items())
        for folder, label in folders
        for file in _images(root, folder, part, label)
    ]
    labels = layout.labels
    index = {label: number for number, label in enumerate(labels)}
    y = np.array([index[file.label] for file in files], np.int64)
    fixed = np.array([file.part for file in files], np.str_) if layout.given else None
    check_classes(y, labels, request.source, fixed)
    groups = _groups(files, group_pattern)

    def decode(out: BinaryIO) -> Content:
        digest = hashlib.sha256()
        kept = np.zeros(len(files), bool)
        left_out: list[tuple[str, str]] = []
        contents: set[str] = set()
        dim: list[str] = []
        for row, (file, content_hash, pixels, used) in enumerate(_decoded(files, request, progress)):
            digest.update(os.fsencode(file.relative) + b"\0" + content_hash.encode() + b"\n")
            if isinstance(pixels, str):
                left_out.append((_printable(file.relative), pixels))
                if len(left_out) >= _SHOWN:
                    _check_left_out(left_out, len(files), request.source)
            else:
                kept[row] = True
                contents.add(content_hash)
                dim += [_printable(file.relative)] if used <= UNUSED else []
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
            notes=(*layout.notes, *_notes(twice, dim)),
        )

    stamps = [[_printable(file.relative), file.size_bytes, file.changed_ns] for file in files]
    return cached(cache, request, [str(root.absolute()), stamps, group_pattern], decode)


def _notes(twice: int, dim: list[str]) -> Iterator[str]:
    if twice:
        yield f"Files with the same bytes as another: {twice}. Two splits may share an image."
    if dim:
        yield (
            f"Images with 16 bits or more of which less than a quarter is used, such as {dim[0]}: {len(dim)}. They are "
            "nearly black, as 12-bit pictures stored in 16 bits are: scale them to the full range."
        )


def _images(root: Path, folder: Path, part: str, label: str) -> Iterator[_File]:
    """All files below a class folder that may be images; those of programs are not, links are followed."""
    seen: set[str] = set()
    for here, below, names in os.walk(folder, onerror=unreadable_folder, followlinks=True):
        real = os.path.realpath(here)
        below[:] = [] if real in seen else sorted(name for name in below if not is_of_a_program(name))
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
            yield _File(path, path.relative_to(root).as_posix(), label, part, size_bytes, changed_ns)


def _decoded(
    files: list[_File], request: Request, progress: Progress | None
) -> Iterator[tuple[_File, str, Pixels | str, float]]:
    """(file, hash of its content, pixels or why there are none, see `decode_image`), in order, by a pool of threads.

    Decoding and scaling run outside Python's lock. A few hundred images are held at a time.
    """

    def decode(file: _File) -> tuple[_File, str, Pixels | str, float]:
        try:
            if file.size_bytes >= 0 and not file.path.is_file():
                return file, "", "no regular file", 1.0
            content = file.path.read_bytes()
        except OSError as error:
            return file, "", error.strerror or str(error), 1.0
        content_hash = hashlib.sha256(content).hexdigest()
        try:
            return file, content_hash, *decode_image(content, request.input_shape, request.policy)
        except InputError as error:
            return file, content_hash, str(error), 1.0

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
    with reading(f"The group pattern {shown(pattern)}", "It is a regular expression."):
        compiled = re.compile(pattern)
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
