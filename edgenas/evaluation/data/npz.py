"""An `.npz` file: x (images), y (classes), optional group and labels."""

import unicodedata
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgenas.errors import InputError, near, reading
from edgenas.evaluation.data.arrays import prepare_arrays, value_range
from edgenas.evaluation.data.dataset import Content, Dataset, Request, cached, check_classes, hash_of, one_name_each

_KEYS = ("x", "y", "group", "labels")


def load_npz(path: Path, request: Request, cache: Path) -> Dataset:
    """The images of an `.npz`, read whole once; see `load_dataset`."""

    def decode(out: BinaryIO) -> Content:
        arrays = _read(path)
        x, y, labels = arrays["x"], *_classes(arrays, request.source)
        if x.shape[:1] != y.shape:
            raise InputError(
                f"{request.source}: expected one y an image, received x {list(x.shape)} and y {list(y.shape)}."
            )
        group = arrays.get("group")
        if group is not None and (group.shape != y.shape or group.dtype.kind not in "iuUb"):
            raise InputError(
                f"{request.source}: group: expected one integer or string an image [{len(y)}], "
                f"received {group.dtype} {list(group.shape)}."
            )
        check_classes(y, labels, request.source)
        try:
            pixels = prepare_arrays(x, request.input_shape, request.policy)
            _, sentence = value_range(x)
        except InputError as error:
            raise InputError(f"{request.source}: {error}") from None
        out.write(np.ascontiguousarray(pixels).data)
        return Content(
            y=y,
            labels=labels,
            identity=hash_of(x=x, y=y, group=group, labels=np.array(labels)),
            group=None if group is None else group.astype(np.str_),
            notes=(sentence,) if sentence else (),
        )

    status = path.stat()
    return cached(cache, request, [str(path.absolute()), status.st_size, status.st_mtime_ns], decode)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    with reading(f"The data {path}", "Write them with numpy.savez(path, x=x, y=y), x and y without Python objects."):
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip archive")
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            for key in ("x", "y"):
                if key not in names:
                    raise InputError(f"{path}: expected arrays x and y, received no {key!r}. {_found(key, names)}")
            arrays = {key: _array(archive, key) for key in _KEYS if key in names}
            return {key: array.astype(np.str_) if array.dtype.kind == "S" else array for key, array in arrays.items()}


def _array(archive: zipfile.ZipFile, key: str) -> NDArray[Any]:
    # Not by numpy.load: it gives the bytes of what is no array, however many.
    with archive.open(f"{key}.npy") as file:
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _found(key: str, names: list[str]) -> str:
    return near(key, names).replace("Known:", "It holds:")


def _classes(arrays: dict[str, NDArray[Any]], source: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """y as 0 .. classes - 1, and the names of the classes."""
    y = arrays["y"]
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iuUb":
        hint = " Take numpy.argmax(y, axis=1) of one-hot rows." if y.ndim == 2 else ""
        raise InputError(
            f"{source}: y: expected one integer or string an image, received {y.dtype} {list(y.shape)}.{hint}"
        )
    if "labels" not in arrays:
        if y.dtype.kind == "U":
            known = one_name_each(np.unique(y).tolist(), source)
            y = np.array([known[name] for name in y.tolist()])
        names, index = np.unique(y, return_inverse=True)
        return index.astype(np.int64), tuple(str(name) for name in names.tolist())
    given = [str(label) for label in arrays["labels"].reshape(-1).tolist()]
    labels = tuple(one_name_each(given, source)[label] for label in given)
    if len(set(labels)) != len(labels):
        raise InputError(f"{source}: labels: expected every name once, received {list(labels)}.")
    if y.dtype.kind == "U":
        index_of = {label: number for number, label in enumerate(labels)}
        y = np.array([unicodedata.normalize("NFC", name) for name in y.tolist()], np.str_)
        unknown = sorted(set(y.tolist()) - set(labels))
        if unknown:
            raise InputError(f"{source}: y holds {unknown[0]!r}, which labels does not. {near(unknown[0], labels)}")
        return np.array([index_of[label] for label in y.tolist()], np.int64), labels
    if y.size and not 0 <= int(y.min()) <= int(y.max()) < len(labels):
        raise InputError(
            f"{source}: y: expected 0..{len(labels) - 1} for {len(labels)} labels, received {y.min()}..{y.max()}."
        )
    return y.astype(np.int64), labels
