"""The acceptance samples of a bundle: arrays that are read only where their headers say what the manifest says."""

import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgenas.deploy.manifest import Manifest
from edgenas.errors import InputError, reading

LARGEST_BYTES = 512 << 20  # of all arrays; 200 images of 500x500x3 are 150 MB
_PIECE_BYTES = 1 << 20
_HEADER_BYTES = 1000  # of an array; NumPy writes 118
_ARRAYS = {"images": np.dtype(np.uint8), "labels": np.dtype(np.int64)}
_OUTPUTS = {"float32": np.dtype(np.float32), "int8": np.dtype(np.uint8), "mixed": np.dtype(np.uint8)}
Array = npt.NDArray[Any]
Head = tuple[tuple[int, ...], np.dtype[Any]]  # shape and type


@dataclass(frozen=True, eq=False)
class Samples:
    """Acceptance images and what the host made of them.

    Attributes:
        images: uint8 [n, height, width, channels], raw pixels.
        labels: int64 [n], the true classes.
        outputs: [n, classes], the raw outputs of `model.tflite` on the host (float32 or uint8).
        float_outputs: the same of `model_float32.tflite`; None where there is none.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    outputs: Array
    float_outputs: npt.NDArray[np.float32] | None = None

    def write(self, path: Path) -> None:
        """Write `samples.npz`."""
        arrays: dict[str, Array] = {"images": self.images, "labels": self.labels, "outputs": self.outputs}
        if self.float_outputs is not None:
            arrays["float_outputs"] = self.float_outputs
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


class Pieces(io.BufferedReader):
    """A file whose reader cannot ask for much at once: what a zip's directory says of its own size is not believed."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size_bytes = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file, but for its bound."""
        asked = self._size_bytes - self.tell() if size is None or size < 0 else size
        if min(asked, self._size_bytes) > _PIECE_BYTES:
            raise ValueError(f"its directory has more than {_PIECE_BYTES >> 10} kB")
        return super().read(size)


def read_samples(path: Path, manifest: Manifest) -> Samples:
    """The samples of a bundle with this manifest.

    Raises:
        InputError: they are not what it says; nothing but headers was read then.
        Exception: what a broken zip or a broken array is read with.
    """
    with Pieces(path) as file, zipfile.ZipFile(file) as archive:
        infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        heads = {name: _head(archive, info) for name, info in infos.items()}
        _refuse_others(path, manifest, heads)
        arrays = {}
        for name, info in infos.items():
            with archive.open(info) as content:
                arrays[name] = np.lib.format.read_array(content, allow_pickle=False)
    return Samples(arrays["images"], arrays["labels"], arrays["outputs"], arrays.get("float_outputs"))


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Head:
    """Shape and type of an array, of which no more is read than its first 64 kB."""
    with archive.open(info) as content:
        if np.lib.format.read_magic(content) != (1, 0):  # the others may have headers of any size
            raise ValueError(f"{info.filename} is an array of another version")
        with reading(f"The header of {info.filename}"):
            shape, _, dtype = np.lib.format.read_array_header_1_0(content, max_header_size=_HEADER_BYTES)
        return tuple(map(int, shape)), dtype


def _refuse_others(path: Path, manifest: Manifest, heads: Mapping[str, Head]) -> None:
    """Raise `InputError` where the arrays are not those of the manifest."""
    unknown = {"images", "labels", "outputs"} ^ (heads.keys() - {"float_outputs"})
    if unknown:
        raise InputError(
            f"The samples {path} cannot be read: expected images, labels, outputs and perhaps float_outputs, received "
            f"{', '.join(sorted(heads))[:200] or 'nothing'}. Train the bundle again."
        )
    count = heads["labels"][0][0] if heads["labels"][0] else 0
    outputs = (count, manifest.architecture.classes)
    shapes = {"images": (count, *manifest.preprocessing.input_shape), "labels": (count,)}
    dtypes = _ARRAYS | {"outputs": _OUTPUTS.get(manifest.precision), "float_outputs": np.dtype(np.float32)}
    wanted = {name: (shapes.get(name, outputs), dtypes[name]) for name in heads}
    if count < 1 or wanted != heads:
        raise InputError(
            f"The samples {path} do not fit the model: expected {_told(wanted)}, received {_told(heads)}. Train the "
            "bundle again."
        )
    size_bytes = sum(math.prod(shape) * dtype.itemsize for shape, dtype in heads.values())
    if size_bytes > LARGEST_BYTES:
        raise InputError(
            f"The samples {path} are {size_bytes >> 20} MB of arrays, at most {LARGEST_BYTES >> 20} MB are read. Train "
            "the bundle again with --no-samples."
        )


def _told(heads: Mapping[str, tuple[tuple[int, ...], Any]]) -> str:
    return ", ".join(f"{name} {dtype} {list(shape)}" for name, (shape, dtype) in sorted(heads.items()))


def copy_in_pieces(source: IO[bytes], target: Path, most_bytes: int) -> None:
    """Write what a stream gives to a file; a stream of more than `most_bytes` is not read to its end.

    Raises:
        ValueError: there is more.
    """
    with target.open("wb") as file:
        while piece := source.read(_PIECE_BYTES):
            most_bytes -= len(piece)
            if most_bytes < 0:
                raise ValueError(f"{target.name} unpacks to more than its archive says")
            file.write(piece)
