"""A file that is labelled as another precision or network is no bundle, and so goes nowhere."""

import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from edgenas.architecture import Architecture
from edgenas.deploy import Bundle
from edgenas.deploy.describing import described
from edgenas.deploy.manifest import Network
from edgenas.deploy.verification import refuse_mislabelled
from edgenas.errors import CheckFailedError, InputError
from edgenas.model.flatbuffer import Table
from tests.made import FLOAT32, INT8, SMALL

Rewritten = Callable[..., Bundle]


@pytest.mark.parametrize(
    ("path", "precision", "words"),
    [
        (
            INT8,
            "float32",
            r"expected an input and an output float32 \[1, 8, 8, 1\] and float32 \[1, 10\], received uint8",
        ),
        (FLOAT32, "int8", r"expected an input and an output uint8 .*received float32 \[1, 8, 8, 1\] and float32"),
        (FLOAT32, "mixed", "expected an input and an output uint8"),
        (INT8, "mixed", "expected tensors of a model in mixed, received tensors of int32, int8, uint8"),
        (INT8, "int4", "expected tensors of a model in int4"),
    ],
)
def test_another_precision_is_refused(path: Path, precision: str, words: str) -> None:
    with pytest.raises(CheckFailedError, match=rf"{path.name} is not what the manifest says: {words}"):
        refuse_mislabelled(path, precision, SMALL, 10)


@pytest.mark.parametrize(
    ("notation", "classes", "words"),
    [
        (
            "input_8x8x1 conv_k3_s2_c16_relu6 head_c32_relu6 dense_n10",
            10,
            "with the weights of conv_2d 512, fully_conn",
        ),
        (
            "input_8x8x1 conv_k3_s2_c16_relu6 mbconv_k3_e1_s1_c16_relu6 head_c64_relu6 dense_n10",
            10,
            "depthwise_conv_2d",
        ),
        ("input_8x8x3 conv_k3_s2_c16_relu6 head_c64_relu6 dense_n10", 10, r"uint8 \[1, 8, 8, 3\]"),
        ("input_9x8x1 conv_k3_s2_c16_relu6 head_c64_relu6 dense_n10", 10, r"uint8 \[1, 9, 8, 1\]"),
        ("input_8x8x1 conv_k3_s2_c16_relu6 head_c64_relu6 dense_n11", 11, r"uint8 \[1, 11\]"),
    ],
)
def test_another_network_is_refused(notation: str, classes: int, words: str) -> None:
    with pytest.raises(CheckFailedError, match=f"is not what the manifest says: expected .*{words}"):
        refuse_mislabelled(INT8, "int8", Architecture.parse(notation), classes)


def test_what_a_file_says_of_itself_counts_too(tmp_path: Path) -> None:
    """The weights are of the same sizes, with another activation."""
    other = Architecture.parse("input_8x8x1 conv_k3_s2_c16_hardswish head_c64_hardswish dense_n10")
    labels = [str(number) for number in range(10)]
    path = tmp_path / "model.tflite"
    path.write_bytes(described(INT8.read_bytes(), "s", SMALL, "int8", labels, "fit"))
    refuse_mislabelled(path, "int8", SMALL, 10)
    with pytest.raises(
        CheckFailedError, match=f"expected the network {other.id}, received one that says it is '{SMALL.id}"
    ):
        refuse_mislabelled(path, "int8", other, 10)


@pytest.mark.parametrize("content", [b"", b"\x1c\x00\x00\x00TFL3" + bytes(40), b"\xff" * 4 + b"TFL3" + bytes(40)])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(InputError, match=r"flatbuffer|subgraphs"):
        refuse_mislabelled(tmp_path / "model.tflite", "int8", SMALL, 10)


def listing(slot: int, length: int) -> bytes:
    """The model, with so many entries in a list of its subgraph; what they are does not matter."""
    content = bytearray(INT8.read_bytes())
    start, _ = Table.root(bytes(content), b"TFL3").tables(2)[0]._vector(slot, 4)
    struct.pack_into("<I", content, start - 4, length)
    return bytes(content) + bytes(4 * length)


@pytest.mark.parametrize(("slot", "length", "most"), [(0, 10_001, 10_000), (0, 1 << 24, 10_000), (1, 257, 256)])
def test_lists_of_any_length_are_not_read(tmp_path: Path, slot: int, length: int, most: int) -> None:
    """All its entries may lie at one place, in a file that is nearly empty."""
    (tmp_path / "model.tflite").write_bytes(listing(slot, length))
    with pytest.raises(InputError, match=f"expected at most {most} entries in a list, it has {length}"):
        refuse_mislabelled(tmp_path / "model.tflite", "int8", SMALL, 10)


def test_a_zip_of_any_size_behind_a_model_is_not_read(tmp_path: Path) -> None:
    """Its directory would become objects in memory, whatever it holds."""
    labels, size = [str(number) for number in range(10)], 5 << 20
    content = described(INT8.read_bytes(), "s", SMALL, "int8", labels, "fit")
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 9, 9, size, len(content), 0)
    (tmp_path / "model.tflite").write_bytes(content + bytes(size) + end)
    with pytest.raises(InputError, match="the zip behind it has more than 4 MB"):
        refuse_mislabelled(tmp_path / "model.tflite", "int8", SMALL, 10)


def test_a_model_of_any_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "model.tflite").open("wb") as file:
        file.truncate(257 << 20)
    with pytest.raises(InputError, match="257 MB, at most 256 MB"):
        refuse_mislabelled(tmp_path / "model.tflite", "int8", SMALL, 10)


def test_a_bundle_with_a_wrong_label_is_none(bundle: Bundle, rewritten: Rewritten, tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match="is not what the manifest says"):
        rewritten(bundle, tmp_path, precision="float32")
    network = dataclasses.replace(
        bundle.manifest.architecture, notation="input_8x8x1 conv_k5_s2_c16_relu6 head_c64_relu6 dense_n10"
    )
    assert isinstance(network, Network)
    with pytest.raises(CheckFailedError, match="with the weights of conv_2d 400, received conv_2d 144"):
        rewritten(bundle, tmp_path, architecture=network)
    with pytest.raises(CheckFailedError, match=r"model_float32\.tflite is not what the manifest says"):
        Bundle.write(
            tmp_path / "both", bundle.manifest, bundle.model_path.read_bytes(), bundle.labels, None,
            float_model=INT8.read_bytes(),
        )  # fmt: skip
