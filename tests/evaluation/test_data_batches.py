"""Batches: what is in them, in which order, and that they stream."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgenas.errors import InputError
from edgenas.evaluation.data import Augment, Dataset, batches, load_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("batches")
    x = np.random.default_rng(0).integers(1, 256, (50, 8, 10, 1), dtype=np.uint8)
    x[:, 0, 0, 0] = np.arange(50)
    np.savez(folder / "data.npz", x=x, y=np.arange(50) % 2)
    return load_dataset(folder / "data.npz", (8, 10, 1), cache=folder / "cache")


def test_batches_are_float_0_to_255_in_order(data: Dataset) -> None:
    stream = batches(data, np.arange(10, 30), 8)
    assert int(stream.cardinality()) == 3
    found = [(x.numpy(), y.numpy()) for x, y in stream]
    assert [len(x) for x, _ in found] == [8, 8, 4]
    assert found[0][0].dtype == np.float32 and found[0][1].dtype == np.int32
    assert (np.concatenate([x for x, _ in found]) == data.x[10:30]).all()
    assert (np.concatenate([y for _, y in found]) == data.y[10:30]).all()


def order(data: Dataset, **settings: object) -> list[int]:
    return [int(value) for x, _ in batches(data, np.arange(50), 16, **settings) for value in x.numpy()[:, 0, 0, 0]]


def test_shuffling_is_by_seed_and_by_epoch(data: Dataset) -> None:
    first, again, other = (order(data, shuffle_seed=seed) for seed in (1, 1, 2))
    assert first == again and sorted(first) == list(range(50)) and first != other
    two = order(data, shuffle_seed=1, epochs=2)
    assert two[:50] == first and sorted(two[50:]) == list(range(50)) and two[50:] != first


def test_a_small_last_batch_can_be_dropped(data: Dataset) -> None:
    assert [len(x) for x, _ in batches(data, np.arange(20), 16, epochs=2, drop_remainder=True)] == [16, 16]
    assert [len(x) for x, _ in batches(data, np.arange(5), 16, drop_remainder=True)] == [5]


def test_flip_and_shift_move_and_invent_nothing(data: Dataset) -> None:
    flipped = next(x.numpy() for x, _ in batches(data, np.arange(50), 50, augment=Augment(flip=True)))
    mirrored = [(image == origin[:, ::-1]).all() for image, origin in zip(flipped, data.x, strict=True)]
    same = [(image == origin).all() for image, origin in zip(flipped, data.x, strict=True)]
    assert 10 < sum(mirrored) < 40 and all(a != b for a, b in zip(mirrored, same, strict=True))
    shifted = next(x.numpy() for x, _ in batches(data, np.arange(50), 50, augment=Augment(shift=0.25)))
    moves = set()
    for image, origin in zip(shifted[..., 0], data.x[..., 0].astype(np.float32), strict=True):
        padded = np.pad(origin, 2)
        moves.add(
            next(
                (dy - 2, dx - 2)
                for dy in range(5)
                for dx in range(5)
                if (padded[dy : dy + 8, dx : dx + 10] == image).all()
            )
        )
    assert {dy for dy, _ in moves} == {dx for _, dx in moves} == {-2, -1, 0, 1, 2}


def test_augmentation_is_deterministic_and_differs_by_step(data: Dataset) -> None:
    def draw(seed: int) -> np.ndarray:
        stream = batches(data, [7, 7, 7, 7], 1, shuffle_seed=seed, augment=Augment(True, 0.3), epochs=4)
        return np.concatenate([x.numpy() for x, _ in stream])

    assert (draw(5) == draw(5)).all() and not (draw(5) == draw(6)).all()
    assert len({image.tobytes() for image in draw(5)}) > 3


def test_bad_arguments(data: Dataset) -> None:
    with pytest.raises(InputError, match="received 0 images"):
        batches(data, [], 8)
    with pytest.raises(InputError, match="a batch of at least 1"):
        batches(data, [1], 0)
    with pytest.raises(InputError, match="expected a shift of 0 to below 1"):
        Augment(shift=1.5)


STREAM = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from edgenas.evaluation.data import batches
from edgenas.evaluation.data.dataset import Content, Request, cached

def anonymous_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

def decode(out):
    for _ in range(400):
        out.write(bytes(1024 * 1024))
    return Content(np.arange(1600) % 2, ("a", "b"), "id")

data = cached(Path(sys.argv[1]), Request("zeros", (512, 512, 1), "pad"), 0, decode)
for _ in batches(data, np.arange(16), 4):
    pass
before, most = anonymous_mb(), 0.0
for x, y in batches(data, np.arange(1600), 4, shuffle_seed=0):
    most = max(most, anonymous_mb())
print(most - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_four_hundred_megabytes_stream_through_a_few(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STREAM, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 150
