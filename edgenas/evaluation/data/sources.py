"""`load_dataset`: from what a user names to a `Dataset`."""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgenas.errors import InputError, near
from edgenas.evaluation.data.arrays import prepare_arrays
from edgenas.evaluation.data.dataset import Content, Dataset, Request, cached, hash_of
from edgenas.evaluation.data.fashion_mnist import load_fashion_mnist
from edgenas.evaluation.data.folders import Progress, load_folder
from edgenas.evaluation.data.images import DEFAULT_POLICY, Policy, check_input_shape, check_policy
from edgenas.evaluation.data.npz import load_npz
from edgenas.files import user_path

DEFAULT_CACHE = Path(".edgenas/cache")
NAMED = ("fashion-mnist", "digits")
"""Data sets known by name. A folder of that name is meant by `./fashion-mnist` (or a `Path`)."""


def load_dataset(
    data: str | Path,
    input_shape: tuple[int, ...],
    policy: Policy = DEFAULT_POLICY,
    *,
    cache: Path = DEFAULT_CACHE,
    group_pattern: str | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Labelled images at the size of a model's input, decoded once into `cache`.

    Args:
        data: a folder with one sub-folder a class, or `train/ validation/ test/` above those, or what people call
            these (`val`, `training_set`, `seg_test`; what is missing is cut from train); an `.npz` with x
            [N, h, w(, c)], y [N] integers or strings, optional group [N] and labels; `fashion-mnist` or `digits`.
        input_shape: (H, W, C), C = 1 or 3.
        policy: how an image of another size is brought to it.
        cache: where decoded images lie; it may be deleted at any time.
        group_pattern: for folders: a regular expression, searched in the path of each file below `data` (with `/`),
            whose first group names what must never be in two splits, such as `r"patient(\\d+)"`.
        progress: called with (files done, files in all).

    Raises:
        InputError: data that cannot be used; it says why and what to do.
    """
    name = str(data)
    shape = check_input_shape(input_shape)
    request = Request(name, shape, check_policy(policy))
    path = user_path(str(data or "-"))  # "" would be the current folder
    if group_pattern is not None and not path.is_dir():
        raise InputError(f"A group pattern names the groups of a folder's files; {name} is none. Use its group array.")
    if isinstance(data, str) and data in NAMED:
        return load_fashion_mnist(request, cache) if data == "fashion-mnist" else _load_digits(request, cache)
    if path.is_dir():
        return load_folder(path, request, cache, group_pattern, progress)
    if path.is_file() and path.suffix.lower() == ".npz":
        return load_npz(path, request, cache)
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    close = near(path.name, [*NAMED, *beside])
    raise InputError(
        f"Expected data as a folder with one sub-folder a class, an .npz, or one of {', '.join(NAMED)}; received "
        f"{name!r}, which {'is none of these' if path.exists() else 'does not exist'}."
        + (f" {close}" if close.startswith("Did") and not path.exists() else "")
    )


def _load_digits(request: Request, cache: Path) -> Dataset:
    """scikit-learn's 1,797 grey images of 8x8: small, and always there."""

    def decode(out: BinaryIO) -> Content:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        x = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        y = bunch.target.astype(np.int64)
        out.write(prepare_arrays(x, request.input_shape, request.policy).data)
        return Content(y, tuple(str(digit) for digit in range(10)), hash_of(x=x, y=y))

    return cached(cache, request, "digits", decode)
