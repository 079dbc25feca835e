"""Batches: what is in them, in which order, and that they stream. For variations: test_data_augmentation.py."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgenas.errors import InputError
from edgenas.evaluation.data import Augment, Dataset, batches, load_dataset, training_batches


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """50 images; the first pixel of each is its number."""
    folder = tmp_path_factory.mktemp("batches")
    x = np.random.default_rng(0).integers(1, 256, (50, 8, 10, 1), dtype=np.uint8)
    x[:, 0, 0, 0] = np.arange(50)
    np.savez(folder / "data.npz", x=x, y=np.arange(50) % 3)
    return load_dataset(folder / "data.npz", (8, 10, 1), cache=folder / "cache")


def test_batches_are_float_0_to_255_in_order(data: Dataset) -> None:
    stream = batches(data, np.arange(10, 30), 8)
    assert int(stream.cardinality()) == 3
    found = [(x.numpy(), y.numpy()) for x, y in stream]
    assert [len(x) for x, _ in found] == [8, 8, 4]
    assert found[0][0].dtype == np.float32 and found[0][1].dtype == np.int32
    assert (np.concatenate([x for x, _ in found]) == data.x[10:30]).all()
    assert (np.concatenate([y for _, y in found]) == data.y[10:30]).all()


def test_batches_for_training_are_images_with_their_labels_as_shares(data: Dataset) -> None:
    stream = training_batches(data, np.arange(10, 50), 8, range(7), 1)
    assert int(stream.cardinality()) == 7
    for x, y in stream:
        assert (x.dtype.as_numpy_dtype, y.dtype.as_numpy_dtype) == (np.float32, np.float32)
        numbers = x.numpy()[:, 0, 0, 0].astype(int)
        assert (x.numpy() == data.x[numbers]).all()
        assert (y.numpy() == np.eye(3)[data.y[numbers]]).all()


def numbers(data: Dataset, steps: range, seed: int = 1, batch_size: int = 16, images: int = 50) -> list[list[int]]:
    """The images of each step."""
    stream = training_batches(data, np.arange(50 - images, 50), batch_size, steps, seed)
    return [x.numpy()[:, 0, 0, 0].astype(int).tolist() for x, _ in stream]


def test_every_pass_has_an_order_of_its_own(data: Dataset) -> None:
    """And whole batches only: of 50 images, 3 batches of 16 are seen in a pass, and no image twice."""
    found = numbers(data, range(9))
    assert [len(batch) for batch in found] == [16] * 9
    passes = np.reshape(found, (3, 48)).tolist()
    assert all(len(set(one)) == 48 for one in passes)
    assert len({tuple(one) for one in passes}) == 3
    assert len({frozenset(one) for one in passes}) > 1, "it is not always the same two that are left out"


def test_a_batch_is_the_same_for_a_seed_and_a_step_wherever_the_steps_begin(data: Dataset) -> None:
    whole = numbers(data, range(9))
    for start in range(9):  # first, within and last of a pass
        assert numbers(data, range(start, 9)) == whole[start:]
    assert numbers(data, range(9), seed=2) != whole
    assert numbers(data, range(4, 4)) == []


def test_a_batch_of_all_images_is_a_pass(data: Dataset) -> None:
    found = numbers(data, range(3), batch_size=20, images=20)
    assert [sorted(batch) for batch in found] == [list(range(30, 50))] * 3
    assert len({tuple(batch) for batch in found}) == 3


def test_varied_images_too_are_the_same_wherever_the_steps_begin(data: Dataset) -> None:
    """As after a break: by the streams of two trainings."""

    def draw(steps: range, seed: int = 5) -> list[np.ndarray]:
        stream = training_batches(data, [7, 7, 7], 3, steps, seed, Augment("strong", flip=True, mixup=0.4))
        return [np.concatenate([x.numpy().reshape(3, -1), y.numpy()], axis=1) for x, y in stream]

    whole = draw(range(4))
    np.testing.assert_array_equal(draw(range(4)), whole)
    np.testing.assert_array_equal(draw(range(2, 4)), whole[2:])
    assert not np.array_equal(draw(range(4), seed=6), whole)
    assert len({image.tobytes() for batch in whole for image in batch}) == 12, "each step and image has its own draw"


def test_bad_arguments(data: Dataset) -> None:
    with pytest.raises(InputError, match="received 0 images"):
        batches(data, [], 8)
    with pytest.raises(InputError, match="a batch of at least 1"):
        batches(data, [1], 0)
    with pytest.raises(InputError, match="received 0 images"):
        training_batches(data, [], 8, range(1), 0)
    with pytest.raises(InputError, match="a batch of at least 1"):
        training_batches(data, [1], 0, range(1), 0)
    with pytest.raises(InputError, match="a batch of at most the 5 images, received 6"):
        training_batches(data, range(5), 6, range(1), 0)


STREAM = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from edgenas.evaluation.data import batches, training_batches
from edgenas.evaluation.data.dataset import Content, Request, cached

def anonymous_mb():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

def decode(out):
    for _ in range(400):
        out.write(bytes(1024 * 1024))
    return Content(np.arange(1600) % 2, ("a", "b"), "id")

data = cached(Path(sys.argv[1]), Request("zeros", (512, 512, 1), "pad"), 0, decode)
for stream in (batches(data, np.arange(16), 4), training_batches(data, np.arange(16), 4, range(4), 0)):
    for _ in stream:
        pass
before, most = anonymous_mb(), 0.0
for stream in (batches(data, np.arange(1600), 4), training_batches(data, np.arange(1600), 4, range(400), 0)):
    for _ in stream:
        most = max(most, anonymous_mb())
print(most - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_four_hundred_megabytes_stream_through_a_few(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STREAM, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 150
