"""What is measured of a `.tflite` file, and at which sizes: as the file itself says."""

import contextlib
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgenas.errors import InputError
from edgenas.latency.profiling.inputs import Condition, by, condition_of
from tests.made import FLOAT32, INT8
from tests.opened import opened, with_signatures


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.tflite"


def condition(path: Path, content: bytes, **asked: Any) -> Condition:
    path.write_bytes(content)
    found = condition_of(path, **asked)
    assert found is not None
    return found


@pytest.mark.parametrize("file", [FLOAT32, INT8])
def test_a_model_that_leaves_nothing_open_is_measured_as_it_is(file: Path):
    found = condition_of(file)
    assert found is not None
    assert (found.for_agent(), found.flags(), found.sizes) == ({}, [], ((1, 8, 8, 1),))
    assert list(found.told()["inputs"].values()) == [[1, 8, 8, 1]]


def test_an_open_number_of_images_is_one(path: Path):
    found = condition(path, opened((-1, 8, 8, 1)))
    assert (found.for_agent(), found.flags(), found.sizes) == ({}, [], ((1, 8, 8, 1),)), "as a runtime makes it"
    found = condition(path, opened((-1, 8, 8, 1)), shapes={"args_0": (4, 8, 8, 1)})
    assert found.for_agent() == {"sizes": [[0, [4, 8, 8, 1]]]}
    assert found.flags() == ["--input_layer=args_0", "--input_layer_shape=4,8,8,1"]


@pytest.mark.parametrize(
    ("content", "asked", "words"),
    [
        (opened(), {}, r"'args_0' is open \(\?x\?x\?x1\).*--shape args_0=1x224x224x1$"),
        (opened((1, 8, -1, 1)), {}, r"is open \(1x8x\?x1\).*--shape args_0=1x8x224x1$"),
        (opened(), {"shapes": {"image": (1, 8, 8, 1)}}, "has no input 'image'. Known: args_0"),
        (opened(), {"shapes": {"args_0": (1, 8, 8, 3)}}, r"takes \?x\?x\?x1, received 1x8x8x3"),
        (opened(), {"shapes": {"args_0": (1, 8, 8)}}, r"takes \?x\?x\?x1, received 1x8x8\."),
        (opened(), {"shapes": {"args_0": (1, 0, 8, 1)}}, "received 1x0x8x1"),
        (opened(), {"shapes": {"args_0": (1, 1 << 31, 8, 1)}}, "received 1x2147483648x8x1"),
        (with_signatures("a", "b"), {}, "has 2 signatures: a, b. Say which: --signature NAME"),
        (with_signatures("a", "b"), {"signature": "c"}, "has no signature 'c'. Known: a, b"),
        (with_signatures("a", "b"), {"signature": "a", "shapes": {"args_0": (1, 8, 8, 1)}}, "Known: image"),
        (with_signatures("a", "b", sizes=(1, -1, -1, 1)), {"signature": "b"}, "its input 'image' is open"),
        (FLOAT32.read_bytes(), {"signature": "a"}, "has no signature 'a'. Known: none yet"),
    ],
)  # fmt: skip
def test_what_is_not_said_or_does_not_fit(path: Path, content: bytes, asked: dict[str, Any], words: str):
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        condition_of(path, **asked)


def test_one_signature_of_several(path: Path):
    two = with_signatures("a", "b", sizes=(1, -1, 24, 1))
    found = condition(path, two, signature="b", shapes={"image": (1, 16, 24, 1)})
    assert found.for_agent() == {"signature": "b", "sizes": [[0, [1, 16, 24, 1]]]}
    assert found.flags() == ["--signature_to_run_for=b", "--input_layer=image", "--input_layer_shape=1,16,24,1"]
    assert found.told() == {"signature": "b", "inputs": {"image": [1, 16, 24, 1]}}
    assert condition(path, two, signature="a").for_agent() == {"signature": "a"}


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_signatures_of_one_graph_are_no_choice(path: Path, names: tuple[str, ...]):
    found = condition(path, with_signatures(*names, graphs=1))
    assert (found.for_agent(), found.flags(), found.told()["signature"]) == ({}, [], "a")
    assert condition(path, with_signatures(*names, graphs=1), signature=names[-1]).for_agent() == {}


def test_sizes_in_words():
    assert [by((1, -1, 3)), by(())] == ["1x?x3", "scalar"]


@pytest.mark.parametrize("content", [b"", b"no model" * 100, b"\x1c\0\0\0TFL3" + b"\xff" * 500])
def test_what_cannot_be_read_is_left_to_the_device_unless_something_is_asked(path: Path, content: bytes):
    path.write_bytes(content)
    assert condition_of(path) is None
    for asked in ({"signature": "a"}, {"shapes": {"x": (1,)}}):
        with pytest.raises(InputError, match=r"cannot be read|Expected a flatbuffer|is damaged"):
            condition_of(path, **asked)  # type: ignore[arg-type]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 2**32 - 1)), min_size=1, max_size=3))
@example([(4, 0)])
def test_a_damaged_file_is_an_error_of_its_own_or_none(path: Path, changes: list[tuple[int, int]]):
    content = bytearray(with_signatures("a", "b"))
    for at, value in changes:
        struct.pack_into("<I", content, 4 * at % (len(content) - 4), value)
    path.write_bytes(content)
    with contextlib.suppress(InputError):  # and nothing else
        assert condition_of(path, signature="b") is not None
