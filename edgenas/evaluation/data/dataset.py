"""`Dataset`: labelled images at the input's size, in a cache on disk that is whole or absent.

A cache entry is a folder: `pixels.u8` (uint8, [N, H, W, C], mapped, never read whole), `arrays.npz` (what else has a
row an image) and `about.json` (the rest, last of all). It is filled beside its name and renamed, under a lock: a
`kill -9` leaves no half entry, and two processes do not decode the same data twice. It may be deleted at any time.
"""

import contextlib
import fcntl
import hashlib
import json
import shutil
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgenas.errors import InputError, reading
from edgenas.evaluation.data.images import InputShape, Policy, check_policy
from edgenas.files import canonical_json, whole_folder

_VERSION = 2  # of how images are decoded: entries of another version are not used
LEAST_IMAGES = 5
"""A class needs as many images as there are splits: train, validation, selection, acceptance, test."""


@dataclass(frozen=True, eq=False)
class Content:
    """What a source holds besides its pixels; see `Dataset` for the fields."""

    y: NDArray[np.int64]
    labels: tuple[str, ...]
    identity: str
    group: NDArray[np.str_] | None = None
    fixed: NDArray[np.str_] | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, brought to one input. Pickled, it is the path of its cache entry.

    Attributes:
        x: uint8, [N, H, W, C], a read-only memory map; 0..255.
        y: int64, [N], 0 .. classes - 1: the index in `labels`.
        labels: the names of the classes.
        group: str, [N], what must never be in two splits (a patient, a video); None where nothing was named.
        fixed: str, [N], the split that the source gave each image ("train", "validation", "test"); None where none.
        left_out: (path, reason) of each file that is no readable image.
        notes: sentences on how the data were read, for the user.
        identity: SHA-256 over names and contents: another value means other data.
        source: what the user named.
        policy: how images were brought to the input.
        input_shape: (H, W, C).
        folder: the cache entry.
    """

    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    labels: tuple[str, ...]
    group: NDArray[np.str_] | None
    fixed: NDArray[np.str_] | None
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    identity: str
    source: str
    policy: Policy
    input_shape: InputShape
    folder: Path

    def __len__(self) -> int:
        return len(self.y)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.labels)

    def __reduce__(self) -> tuple[Callable[[Path], "Dataset"], tuple[Path]]:
        return open_dataset, (self.folder.absolute(),)

    def __repr__(self) -> str:
        shape = "x".join(str(side) for side in self.input_shape)
        return f"Dataset({self.source!r}: {len(self)} images, {self.classes} classes, {shape}, {self.policy})"


def open_dataset(folder: Path) -> Dataset:
    """The data set of a cache entry.

    Raises:
        InputError: it is not there, or not whole.
    """
    with reading(f"The data cache {folder}", "Delete it; it is made again."):
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
            rows = dict(arrays)
        height, width, channels = about["input_shape"]
        shape = (len(rows["y"]), height, width, channels)
        pixels = folder / "pixels.u8"
        if pixels.stat().st_size != int(np.prod(shape)):
            raise ValueError("pixels.u8 has another size")
        return Dataset(
            x=np.memmap(pixels, np.uint8, "r", shape=shape),
            y=rows["y"],
            labels=tuple(about["labels"]),
            group=rows.get("group"),
            fixed=rows.get("fixed"),
            left_out=tuple((path, reason) for path, reason in about["left_out"]),
            notes=tuple(about["notes"]),
            identity=about["identity"],
            source=about["source"],
            policy=check_policy(about["policy"]),
            input_shape=(height, width, channels),
            folder=folder,
        )


@dataclass(frozen=True)
class Request:
    """What a cache entry is for."""

    source: str
    input_shape: InputShape
    policy: Policy


def cached(cache: Path, request: Request, key: Any, decode: Callable[[BinaryIO], Content]) -> Dataset:
    """The data set of `request` from the cache, decoded first where it is not there yet.

    Args:
        cache: the folder of all entries.
        key: plain data that changes when the source does (names, sizes, times of change).
        decode: writes the pixels ([N, H, W, C] in order, uint8) to a file and returns the rest.

    Raises:
        InputError: `decode` raised it, the cache cannot be written, or a class is too small.
    """
    text = canonical_json([_VERSION, request.source, request.input_shape, request.policy, key])
    folder = cache / hashlib.sha256(text.encode()).hexdigest()[:24]
    try:
        if not folder.exists():
            with _only_one(folder):
                if not folder.exists():
                    _fill(folder, request, decode)
        try:
            return open_dataset(folder)
        except InputError:  # someone else's hand was in it
            with _only_one(folder):
                shutil.rmtree(folder)
                _fill(folder, request, decode)
            return open_dataset(folder)
    except OSError as error:
        raise InputError(
            f"The data cache {cache} cannot be written: {error}. Name another folder or free space."
        ) from None


def _fill(folder: Path, request: Request, decode: Callable[[BinaryIO], Content]) -> None:
    with whole_folder(folder) as beside:
        with (beside / "pixels.u8").open("wb") as file:
            content = decode(file)
        check_classes(content.y, content.labels, request.source, content.fixed)
        arrays: dict[str, NDArray[Any]] = {"y": content.y.astype(np.int64)}
        for name, values in (("group", content.group), ("fixed", content.fixed)):
            if values is not None:
                arrays[name] = values
        np.savez(beside / "arrays.npz", **arrays)  # type: ignore[arg-type]
        about = {
            "labels": content.labels,
            "left_out": content.left_out,
            "notes": content.notes,
            "identity": content.identity,
            "source": request.source,
            "policy": request.policy,
            "input_shape": request.input_shape,
        }
        (beside / "about.json").write_text(canonical_json(about), encoding="utf-8")


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache entry, and clear what a killed process left of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system gives it back when the process dies
        for left in folder.parent.glob(f".{folder.name}.*.part"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def check_classes(
    y: NDArray[np.int64], labels: Sequence[str], source: str, fixed: NDArray[np.str_] | None = None
) -> None:
    """See that every split can have an image of every class.

    Raises:
        InputError: fewer than two classes, one with a name that fits on no line, or one with too few images.
    """
    if len(labels) < 2:
        found = f"only {labels[0]!r}" if labels else "none"
        raise InputError(f"{source}: expected at least two classes, received {found}.")
    for label in labels:
        if not label.isprintable() or not label:
            raise InputError(f"{source}: the class name {label!r} cannot be printed. Rename it.")
    given = set() if fixed is None else set(np.unique(fixed).tolist()) - {"train"}
    for part in ("train", *sorted(given)):
        inside = y if fixed is None else y[fixed == part]
        need = LEAST_IMAGES - len(given) if part == "train" else 1
        counts = np.bincount(inside, minlength=len(labels))
        for label, count in zip(labels, counts.tolist(), strict=True):
            if count < need:
                where = f" in {part}" if given else ""
                raise InputError(
                    f"{source}: the class {label!r} has {count} image{'' if count == 1 else 's'}{where}; expected at "
                    f"least {need}, so that every split has one. Add images or remove the class."
                )


def one_name_each(names: Iterable[str], source: str) -> dict[str, str]:
    """The class that each name stands for: the ways in which Unicode writes the same letters (NFC, NFD) are one.

    Raises:
        InputError: names that differ in capitals or spaces alone; letters of their own ("a" and "A") may.
    """
    labels = {name: unicodedata.normalize("NFC", name) for name in names}
    alike = defaultdict(set)
    for label in labels.values():
        if len(label) > 1:
            alike[" ".join(label.casefold().split())].add(label)
    for same in alike.values():
        if len(same) > 1:
            first, second = sorted(same)[:2]
            raise InputError(
                f"{source}: the names {first!r} and {second!r} differ in capitals or spaces alone. Merge them if they "
                "are one class, or give one a name of its own."
            )
    return labels


def hash_of(**arrays: NDArray[Any] | None) -> str:
    """SHA-256 over the names, types, shapes and bytes of arrays."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        if values is not None:
            digest.update(canonical_json([name, values.dtype.str, values.shape]).encode())
            digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
