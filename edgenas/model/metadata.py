"""What a `.tflite` file says of itself: TFLite metadata, as Android's and other TFLite tools read it.

A flatbuffer of the schema metadata_schema.fbs (TFLite Support, MediaPipe) stands in the model under the name
"TFLITE_METADATA"; it names a file of labels, which is packed into a zip behind the model, uncompressed, since
Android's reader maps it. A zip is read from its end and a flatbuffer from its beginning, so one file is both.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, get_args

import flatbuffers

from edgenas.errors import InputError, reading, shown
from edgenas.model.flatbuffer import Table, Value, build, place_offsets, place_table

Colour = Literal["rgb", "grayscale"]
ENTRY = "TFLITE_METADATA"
LABELS_FILE = "labels.txt"
PARSER_VERSION = "1.0.0"  # of the schema that first had all the fields used here
HIGHEST_PIXEL = 255.0
_LARGEST_ZIP_BYTES = 4 << 20
_MODEL_KIND, _METADATA_KIND = b"TFL3", b"M001"
_ALIGNMENT = 16  # of what buffers hold (schema.fbs); runtimes read weights where they lie

# Fields by number, as the two schemas list them.
_Model = IntEnum("_Model", "VERSION OPERATOR_CODES SUBGRAPHS DESCRIPTION BUFFERS METADATA_BUFFER METADATA", start=0)
_Subgraph = IntEnum("_Subgraph", "TENSORS INPUTS OUTPUTS", start=0)
_Tensor = IntEnum("_Tensor", "SHAPE TYPE BUFFER NAME", start=0)
_Buffer = IntEnum("_Buffer", "DATA OFFSET SIZE", start=0)
_Entry = IntEnum("_Entry", "NAME BUFFER", start=0)
_Meta = IntEnum("_Meta", "NAME DESCRIPTION VERSION SUBGRAPHS AUTHOR LICENSE FILES MIN_PARSER_VERSION", start=0)
_SubgraphMeta = IntEnum("_SubgraphMeta", "NAME DESCRIPTION INPUTS OUTPUTS", start=0)
_TensorMeta = IntEnum("_TensorMeta", "NAME DESCRIPTION DIMENSIONS CONTENT PROCESS_UNITS STATS FILES", start=0)
_Union = IntEnum("_Union", "TYPE VALUE", start=0)  # of Content and of ProcessUnit
_Image = IntEnum("_Image", "COLOR_SPACE", start=0)
_Normalization = IntEnum("_Normalization", "MEAN STD", start=0)
_Stats = IntEnum("_Stats", "MAX MIN", start=0)
_File = IntEnum("_File", "NAME DESCRIPTION TYPE", start=0)
# Values of its enumerations and unions.
_FEATURE, _IMAGE = 1, 2  # ContentProperties
_NORMALIZATION = 1  # ProcessUnitOptions
_TENSOR_AXIS_LABELS = 2  # AssociatedFileType
_COLOURS: dict[Colour, int] = {"rgb": 1, "grayscale": 2}  # ColorSpaceType


@dataclass(frozen=True)
class Metadata:
    """What a classifier of images says of itself.

    Attributes:
        name, description, version, author: of the model, for people.
        image: of the input, for people.
        labels: the names of the classes, in the order of the outputs.
        colour: of the input.
        mean, std: what a pixel of 0-255 becomes before it is given to the model: (pixel - mean) / std. 0 and 1: raw.
    """

    name: str
    description: str
    version: str
    author: str
    image: str
    labels: tuple[str, ...]
    colour: Colour
    mean: float = 0.0
    std: float = 1.0


def add_metadata(content: bytes, metadata: Metadata) -> bytes:
    """The `.tflite` file with metadata and labels in it; all else stays as it was, byte for byte and aligned as before.

    Raises:
        InputError: it has metadata already, or is no model with one input and an output a label.
    """
    model = _model(content)
    if any(entry.text(_Entry.NAME) == ENTRY for entry in model.tables(_Model.METADATA)):
        raise InputError("The model has metadata already: give the file that the converter wrote.")
    _check_ends(model, metadata)
    for label in metadata.labels:
        if label.splitlines() != [label]:
            raise InputError(f"Expected a label of one line that is not empty, received {label!r}.")
    text = "".join(f"{label}\n" for label in metadata.labels)
    return _with_file(_with_entry(model, ENTRY, build(_described(metadata), _METADATA_KIND)), LABELS_FILE, text)


def read_metadata(content: bytes) -> Metadata | None:
    """What a `.tflite` file says of itself; None where it says nothing.

    Raises:
        InputError: no model, or metadata that are damaged or not those of a classifier of images.
    """
    model = _model(content)
    named = [entry for entry in model.tables(_Model.METADATA) if entry.text(_Entry.NAME) == ENTRY]
    if not named:
        return None
    buffers, index = model.tables(_Model.BUFFERS), named[0].number(_Entry.BUFFER, "I")
    if index >= len(buffers):
        raise InputError(f"The model's metadata are in buffer {index}, and it has {len(buffers)}.")
    root = Table.root(buffers[index].data(_Buffer.DATA), _METADATA_KIND)
    subgraph = _only(root.tables(_Meta.SUBGRAPHS), "subgraph")
    given = _only(subgraph.tables(_SubgraphMeta.INPUTS), "input")
    wanted = _only(subgraph.tables(_SubgraphMeta.OUTPUTS), "output")
    mean, std = _normalization(given)
    return Metadata(
        name=root.text(_Meta.NAME),
        description=root.text(_Meta.DESCRIPTION),
        version=root.text(_Meta.VERSION),
        author=root.text(_Meta.AUTHOR),
        image=given.text(_TensorMeta.DESCRIPTION),
        labels=_labels(content, wanted),
        colour=_colour(given),
        mean=mean,
        std=std,
    )


def operators_of(content: bytes) -> tuple[str, ...]:
    """Names of the builtin operators that a `.tflite` file uses, each once, sorted, as TFLite spells them: "CONV_2D".

    Raises:
        InputError: no model, or one with an operator that is not builtin.
    """
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    names = {number: name for name, number in vars(BuiltinOperator).items() if name.isupper()}
    # OperatorCode: the number was a byte at first, and has a field of its own since there are more of them.
    byte, custom, number = 0, 1, 3
    found = set()
    for code in _model(content).tables(_Model.OPERATOR_CODES):
        index = max(code.number(byte, "b"), code.number(number, "i"))
        if code.text(custom) or index not in names:
            raise InputError(f"Expected builtin operators only, received {code.text(custom) or f'number {index}'!r}.")
        found.add(names[index])
    return tuple(sorted(found))


def _model(content: bytes) -> Table:
    return Table.root(content, _MODEL_KIND)


def _only(tables: Sequence[Table], what: str) -> Table:
    if len(tables) != 1:
        raise InputError(f"Expected a model with one {what}, received one with {len(tables)}.")
    return tables[0]


def _check_ends(model: Table, metadata: Metadata) -> None:
    subgraph = _only(model.tables(_Model.SUBGRAPHS), "subgraph")
    tensors = subgraph.tables(_Subgraph.TENSORS)
    shapes = []
    for slot in (_Subgraph.INPUTS, _Subgraph.OUTPUTS):
        indices = subgraph.numbers(slot, "i")
        if len(indices) != 1 or not 0 <= indices[0] < len(tensors):
            raise InputError(f"Expected a model with one input and one output, received tensors {indices}.")
        shapes.append(tensors[int(indices[0])].numbers(_Tensor.SHAPE, "i"))
    expected = (3 if metadata.colour == "rgb" else 1, len(metadata.labels))
    received = tuple(shape[-1:] for shape in shapes)
    if received != tuple((number,) for number in expected):
        raise InputError(
            f"The metadata do not fit the model: expected shapes that end with {expected[0]} (channels) and "
            f"{expected[1]} (labels), received {shapes[0]} and {shapes[1]}."
        )


def _described(metadata: Metadata) -> Value:
    """ModelMetadata of the schema."""
    picture: Value = {
        _TensorMeta.NAME: "image",
        _TensorMeta.DESCRIPTION: metadata.image,
        _TensorMeta.CONTENT: {
            _Union.TYPE: _IMAGE,
            _Union.VALUE: {_Image.COLOR_SPACE: _COLOURS[metadata.colour]},
        },
        _TensorMeta.PROCESS_UNITS: [
            {
                _Union.TYPE: _NORMALIZATION,
                _Union.VALUE: {_Normalization.MEAN: [metadata.mean], _Normalization.STD: [metadata.std]},
            }
        ],
        _TensorMeta.STATS: {
            _Stats.MAX: [(HIGHEST_PIXEL - metadata.mean) / metadata.std],
            _Stats.MIN: [(0.0 - metadata.mean) / metadata.std],
        },
    }
    scores: Value = {
        _TensorMeta.NAME: "scores",
        _TensorMeta.DESCRIPTION: "One logit a class, in the order of the labels: the largest is the model's answer.",
        _TensorMeta.CONTENT: {_Union.TYPE: _FEATURE, _Union.VALUE: {}},
        _TensorMeta.FILES: [
            {
                _File.NAME: LABELS_FILE,
                _File.DESCRIPTION: "The names of the classes.",
                _File.TYPE: _TENSOR_AXIS_LABELS,
            }
        ],
    }
    return {
        _Meta.NAME: metadata.name,
        _Meta.DESCRIPTION: metadata.description,
        _Meta.VERSION: metadata.version,
        _Meta.SUBGRAPHS: [{_SubgraphMeta.INPUTS: [picture], _SubgraphMeta.OUTPUTS: [scores]}],
        _Meta.AUTHOR: metadata.author,
        _Meta.MIN_PARSER_VERSION: PARSER_VERSION,
    }


def _with_entry(model: Table, name: str, data: bytes) -> bytes:
    """The model with one more metadata entry.

    A flatbuffer's offsets lead forward, so a new root before the old content can refer to all of it: the weights are
    moved as one block, by a multiple of their alignment, which packing the model anew in Python would not keep.

    Raises:
        InputError: a model whose content is not all in the flatbuffer, or that has fields unknown here.
    """
    known = _Model.METADATA + 2  # and signature_defs
    if model.slots > known or any(each.number(_Buffer.SIZE, "Q") for each in model.tables(_Model.BUFFERS)):
        raise InputError("The model has parts outside its flatbuffer, which EdgeNAS does not write: convert it again.")
    old = model.content + bytes(-len(model.content) % _ALIGNMENT)
    builder = flatbuffers.Builder(len(old) + len(data) + 4096)
    builder.CreateByteVector(old)

    def of(position: int) -> int:
        return len(old) - position

    builder.Prep(_ALIGNMENT, len(data))
    word = builder.PrependUint32Slot
    buffer = place_table(builder, {_Buffer.DATA: builder.CreateByteVector(data)}, {}, word)
    buffers = [of(each.position) for each in model.tables(_Model.BUFFERS)]
    entry = place_table(builder, {_Entry.NAME: builder.CreateString(name)}, {_Entry.BUFFER: len(buffers)}, word)
    fields: dict[int, int] = {slot: of(at) for slot in range(1, known) if (at := model.target(slot)) is not None}
    fields[_Model.BUFFERS] = place_offsets(builder, [*buffers, buffer])
    entries = [of(each.position) for each in model.tables(_Model.METADATA)]
    fields[_Model.METADATA] = place_offsets(builder, [*entries, entry])
    root = place_table(builder, fields, {_Model.VERSION: model.number(_Model.VERSION, "I")}, word)
    builder.Finish(root, file_identifier=_MODEL_KIND)
    return bytes(builder.Output())


def _with_file(content: bytes, name: str, text: str) -> bytes:
    """The content with a zip of one file behind it; the same bytes whenever it is written."""
    whole = io.BytesIO()
    whole.write(content)
    # Opened for writing it counts positions from the file's beginning, and does not look for a zip that is no zip.
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(name), text.encode())
    return whole.getvalue()


class _Pieces(io.BytesIO):
    """A model, of whose zip no more is read at once than labels take: what it says of its own size is not believed."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file, but for its bound."""
        content = super().read(
            _LARGEST_ZIP_BYTES + 1 if size is None or size < 0 else min(size, _LARGEST_ZIP_BYTES + 1)
        )
        if len(content) > _LARGEST_ZIP_BYTES:
            raise ValueError(f"the zip behind it has more than {_LARGEST_ZIP_BYTES >> 20} MB")
        return content


def _normalization(given: Table) -> tuple[float, float]:
    """(mean, std) of the input."""
    for unit in given.tables(_TensorMeta.PROCESS_UNITS):
        options = unit.table(_Union.VALUE)
        if unit.number(_Union.TYPE, "B") == _NORMALIZATION and options is not None:
            found = options.numbers(_Normalization.MEAN, "f"), options.numbers(_Normalization.STD, "f")
            if tuple(map(len, found)) == (1, 1):
                return found[0][0], found[1][0]
    raise InputError("The model's metadata lack the mean and std that a pixel is normalised with (one of each).")


def _colour(given: Table) -> Colour:
    content = given.table(_TensorMeta.CONTENT)
    if content is not None and content.number(_Union.TYPE, "B") == _IMAGE:
        properties = content.table(_Union.VALUE)
        space = 0 if properties is None else properties.number(_Image.COLOR_SPACE, "b")
        for colour in get_args(Colour):
            if _COLOURS[colour] == space:
                return colour  # type: ignore[no-any-return]
    raise InputError("The model's metadata do not say that its input is an image, RGB or grayscale.")


def _labels(content: bytes, wanted: Table) -> tuple[str, ...]:
    names = [
        file.text(_File.NAME)
        for file in wanted.tables(_TensorMeta.FILES)
        if file.number(_File.TYPE, "b") == _TENSOR_AXIS_LABELS
    ]
    if not names:
        raise InputError("The model's metadata name no file of labels.")
    with reading(f"The labels {shown(names[0])} in the model"), zipfile.ZipFile(_Pieces(content)) as archive:
        info = archive.getinfo(names[0])
        if info.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{shown(names[0])} in the model is compressed; Android reads it uncompressed only.")
        return tuple(archive.read(info).decode().splitlines())
