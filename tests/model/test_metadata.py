"""TFLite metadata: what other tools read in a model, and that the model is the same one with it."""

import dataclasses
import functools
import io
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers.number_types import Float32Flags, Int8Flags, UOffsetTFlags
from flatbuffers.table import Table
from hypothesis import given
from hypothesis import strategies as st

from edgenas.architecture import Architecture
from edgenas.errors import InputError
from edgenas.model import PRECISIONS, Precision, convert_network, run_tflite
from edgenas.model.metadata import Metadata, add_metadata, operators_of, read_metadata

GREY = Architecture.parse("input_8x8x1 conv_k3_s2_c8_relu6 mbconv_k3_e3_s1_c8_se0.25_hardswish head_c16_relu6 dense_n3")
COLOUR = Architecture.parse("input_9x8x3 conv_k3_s2_c8_relu6 head_c16_relu6 dense_n3")
LABELS = ("cat", 'a "dog" of $(id)', "Ölflasche 🛢")
METADATA = Metadata(
    name="pets",
    description="Names one of 3 classes.",
    version="3f2a9c0b1d4e",
    author="EdgeNAS",
    image="8x8x1, raw pixels",
    labels=LABELS,
    colour="grayscale",
)
both_precisions = pytest.mark.parametrize("precision", PRECISIONS)


@functools.cache
def plain(precision: Precision, network: Architecture = GREY) -> bytes:
    return convert_network(network, precision)


@functools.cache
def told(precision: Precision) -> bytes:
    return add_metadata(plain(precision), METADATA)


def by_tensorflow(content: bytes, images: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf.lite.Interpreter says that it will go
        interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    given, wanted = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    outputs = []
    for image in images:
        interpreter.set_tensor(given["index"], image[None].astype(given["dtype"]))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(wanted["index"])[0])
    return np.array(outputs)


@both_precisions
@pytest.mark.parametrize("run", [run_tflite, by_tensorflow], ids=["LiteRT", "TensorFlow"])
def test_it_runs_as_before(run: Callable[[bytes, np.ndarray], np.ndarray], precision: Precision) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    expected = run(plain(precision), images)
    assert len(np.unique(expected)) > 10
    np.testing.assert_array_equal(run(told(precision), images), expected)


@both_precisions
def test_the_rest_of_the_model_is_as_it_was(precision: Precision) -> None:
    """By TFLite's own generated code: each buffer holds what it held, and is aligned as it was."""
    before = schema.Model.GetRootAs(plain(precision))
    content = told(precision)
    after = schema.Model.GetRootAs(content)
    assert schema.Model.ModelBufferHasIdentifier(content, 0)
    assert after.Version() == before.Version() == 3
    assert after.Description() == before.Description()
    assert after.BuffersLength() == before.BuffersLength() + 1
    for index in range(before.BuffersLength()):
        old, new = before.Buffers(index), after.Buffers(index)
        assert new.DataIsNone() == old.DataIsNone()
        if not old.DataIsNone():
            np.testing.assert_array_equal(new.DataAsNumpy(), old.DataAsNumpy())
            assert _address(new) % 16 == _address(old) % 16
    names = [before.Metadata(index).Name() for index in range(before.MetadataLength())]
    assert [after.Metadata(index).Name() for index in range(after.MetadataLength())] == [*names, b"TFLITE_METADATA"]
    assert after.Metadata(len(names)).Buffer() == before.BuffersLength()
    assert after.SubgraphsLength() == 1
    assert plain(precision)[8:] in content


def _address(buffer: Any) -> int:
    table = buffer._tab
    return int(table.Vector(table.Offset(4)))


def _metadata_table(content: bytes) -> Table:
    model = schema.Model.GetRootAs(content)
    entry = model.Metadata(model.MetadataLength() - 1)
    data = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    assert data[4:8] == b"M001"
    table = Table(data, 0)
    return Table(data, table.Get(UOffsetTFlags, 0))


def _text(table: Table, offset: int) -> str:
    return bytes(table.String(table.Pos + table.Offset(offset))).decode()


def _child(table: Table, offset: int) -> Table:
    return Table(table.Bytes, table.Indirect(table.Pos + table.Offset(offset)))


def _element(table: Table, offset: int) -> Table:
    """The only table of a vector."""
    assert table.VectorLen(table.Offset(offset)) == 1
    return Table(table.Bytes, table.Indirect(table.Vector(table.Offset(offset))))


def _floats(table: Table, offset: int) -> list[float]:
    return list(table.GetVectorAsNumpy(Float32Flags, table.Offset(offset)))


def _byte(table: Table, offset: int) -> int:
    return int(table.Get(Int8Flags, table.Pos + table.Offset(offset)))


def test_fields_stand_where_the_schema_has_them() -> None:
    """metadata_schema.fbs, read by offsets in vtables (4 + 2 * field) with the flatbuffers package."""
    root = _metadata_table(told("int8"))
    assert [_text(root, offset) for offset in (4, 6, 8, 12)] == [
        "pets",
        METADATA.description,
        METADATA.version,
        "EdgeNAS",
    ]
    assert _text(root, 18) == "1.0.0"  # min_parser_version
    subgraph = _element(root, 10)
    image, scores = _element(subgraph, 8), _element(subgraph, 10)
    assert (_text(image, 4), _text(image, 6)) == ("image", "8x8x1, raw pixels")
    content = _child(image, 10)
    assert (_byte(content, 4), _byte(_child(content, 6), 4)) == (2, 2)  # ImageProperties, GRAYSCALE
    unit = _element(image, 12)
    options = _child(unit, 6)
    assert (_byte(unit, 4), _floats(options, 4), _floats(options, 6)) == (1, [0], [1])  # NormalizationOptions
    stats = _child(image, 14)
    assert (_floats(stats, 4), _floats(stats, 6)) == ([255], [0])  # max, min
    assert _byte(_child(scores, 10), 4) == 1  # FeatureProperties
    file = _element(scores, 16)
    assert (_text(file, 4), _byte(file, 8)) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS


@both_precisions
def test_the_labels_are_a_file_of_a_zip(precision: Precision) -> None:
    with zipfile.ZipFile(io.BytesIO(told(precision))) as archive:
        (info,) = archive.infolist()
        assert archive.testzip() is None
        assert (info.filename, info.compress_type) == ("labels.txt", zipfile.ZIP_STORED)
        assert archive.read(info).decode() == "".join(f"{label}\n" for label in LABELS)


def test_colour_and_what_is_read_back() -> None:
    metadata = dataclasses.replace(METADATA, colour="rgb", image="9x8x3")
    content = add_metadata(plain("float32", COLOUR), metadata)
    assert read_metadata(content) == metadata
    assert read_metadata(told("int8")) == METADATA
    assert read_metadata(plain("int8")) is None


line = st.text(min_size=1).filter(lambda text: text.splitlines() == [text])


@given(st.tuples(line, line, line), st.text())
def test_any_text_is_read_back(labels: tuple[str, str, str], text: str) -> None:
    metadata = dataclasses.replace(METADATA, labels=labels, name=text, description=text)
    assert read_metadata(add_metadata(plain("int8"), metadata)) == metadata


def test_it_is_the_same_file_whenever_it_is_written() -> None:
    assert add_metadata(plain("int8"), METADATA) == told("int8")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": LABELS[:2]}, r"end with 1 \(channels\) and 2 \(labels\), received \(1, 8, 8, 1\) and \(1, 3\)"),
        ({"colour": "rgb"}, r"end with 3 \(channels\)"),
        ({"labels": ("a", "b\nc", "d")}, r"a label of one line that is not empty, received 'b\\nc'"),
        ({"labels": ("a", "", "d")}, "received ''"),
        ({"labels": ("a", "b\u2028c", "d")}, "a label of one line"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        add_metadata(plain("int8"), dataclasses.replace(METADATA, **changes))


def test_metadata_are_added_once() -> None:
    with pytest.raises(InputError, match="has metadata already"):
        add_metadata(told("int8"), METADATA)


@pytest.mark.parametrize("content", [b"", b"TFL3", b"no model at all, though long enough", b"\xff\xff\xff\xffTFL3"])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(InputError, match=r"Expected a flatbuffer of the kind TFL3|is damaged"):
        read_metadata(content)


@given(st.data())
def test_damage_is_noticed_or_harmless(data: st.DataObject) -> None:
    """Whatever a file holds, reading ends, with metadata or with an `InputError`."""
    content = bytearray(told("int8"))
    for _ in range(data.draw(st.integers(1, 4))):
        # Where the tables of the metadata are, and the file of labels.
        at = data.draw(st.one_of(st.integers(0, 2000), st.integers(len(content) - 300, len(content) - 1)))
        content[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    for read in (read_metadata, operators_of):
        try:
            read(bytes(content[:end]))
        except InputError as error:
            assert str(error)


def test_labels_that_are_missing_or_compressed_are_named() -> None:
    bare = told("int8")[: told("int8").rindex(b"PK\3\4")]
    with pytest.raises(InputError, match=r"'labels\.txt' in the model cannot be read"):
        read_metadata(bare)
    packed = io.BytesIO(bare)
    packed.seek(0, io.SEEK_END)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", "a\nb\nc\n" * 20)
    with pytest.raises(InputError, match="is compressed; Android reads it uncompressed only"):
        read_metadata(packed.getvalue())


def test_operators_are_named_once() -> None:
    assert operators_of(told("float32")) == (
        "ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "HARD_SWISH", "LOGISTIC", "MEAN", "MUL",
    )  # fmt: skip
    assert set(operators_of(plain("int8"))) == {*operators_of(told("float32")), "QUANTIZE"}
