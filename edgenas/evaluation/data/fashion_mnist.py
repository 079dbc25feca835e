"""Fashion-MNIST (Zalando, MIT): 60,000 + 10,000 grey images of 28x28, from a file that is here already."""

import gzip
import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgenas.errors import InputError, reading
from edgenas.evaluation.data.arrays import prepare_arrays
from edgenas.evaluation.data.dataset import Content, Dataset, Request, cached, hash_of
from edgenas.files import user_path

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
LABELS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


def keras_folder() -> Path:
    """Where `keras.datasets.fashion_mnist` keeps its files."""
    return user_path(os.environ.get("KERAS_HOME") or "~/.keras") / "datasets" / "fashion-mnist"


def find_fashion_mnist() -> Path:
    """The folder that holds its four IDX files.

    Raises:
        InputError: none does.
    """
    for folder in (DEBIAN_FOLDER, keras_folder()):
        if all((folder / name).is_file() for names in _FILES.values() for name in names):
            return folder
    raise InputError(
        f"fashion-mnist: expected its files in {DEBIAN_FOLDER} or {keras_folder()}, received none. "
        "On Debian or Ubuntu: apt-get install dataset-fashion-mnist. Elsewhere `edgenas quickstart` can fetch it."
    )


def fetch_fashion_mnist() -> Path:
    """Let Keras download it into its own cache. Only for who was asked for it.

    Raises:
        InputError: there is no network.
    """
    import keras

    try:
        keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # noqa: BLE001 -- Keras raises a plain Exception
        raise InputError(f"fashion-mnist could not be fetched: {error}. Connect to a network, or use digits.") from None
    return find_fashion_mnist()


def load_fashion_mnist(request: Request, cache: Path) -> Dataset:
    """Its own 10,000 test images are the test split; see `load_dataset`."""
    folder = find_fashion_mnist()
    paths = {part: (folder / images, folder / labels) for part, (images, labels) in _FILES.items()}

    def decode(out: BinaryIO) -> Content:
        x = {part: _read_idx(images, 3) for part, (images, _) in paths.items()}
        y = {part: _read_idx(labels, 1) for part, (_, labels) in paths.items()}
        for part in paths:
            if len(x[part]) != len(y[part]) or y[part].max() >= len(LABELS):
                raise InputError(
                    f"fashion-mnist: the {part} files in {folder} do not belong together. Install it again."
                )
            out.write(prepare_arrays(x[part], request.input_shape, request.policy).data)
        fixed = np.repeat(list(paths), [len(y[part]) for part in paths])
        every_x, every_y = (np.concatenate([values[part] for part in paths]) for values in (x, y))
        return Content(every_y.astype(np.int64), LABELS, hash_of(x=every_x, y=every_y), fixed=fixed)

    stamps = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for pair in paths.values() for path in pair]
    return cached(cache, request, stamps, decode)


def _read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The array of a gzipped IDX file of unsigned bytes.

    Raises:
        InputError: damaged.
    """
    with reading(f"The file {path}", "It is damaged: install the data set again."):
        content = gzip.decompress(path.read_bytes())
        magic, *shape = struct.unpack_from(f">{1 + axes}I", content)
        if magic != 0x0800 + axes:
            raise ValueError("no IDX file of bytes")
        return np.frombuffer(content, np.uint8, offset=4 * (1 + axes)).reshape(shape)
