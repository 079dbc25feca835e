"""Whether the `.tflite` files of a bundle are what its manifest says: read from the files, no runtime is asked."""

from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from edgenas.architecture import Architecture
from edgenas.errors import CheckFailedError, InputError
from edgenas.model.flatbuffer import Table
from edgenas.model.metadata import read_metadata

LARGEST_BYTES = 256 << 20  # of a model
# Fields by number, as schema.fbs lists them, and values of its enumerations.
_Model = IntEnum("_Model", "VERSION OPERATOR_CODES SUBGRAPHS", start=0)
_Code = IntEnum("_Code", "DEPRECATED CUSTOM VERSION BUILTIN", start=0)
_Subgraph = IntEnum("_Subgraph", "TENSORS INPUTS OUTPUTS OPERATORS", start=0)
_Tensor = IntEnum("_Tensor", "SHAPE TYPE", start=0)
_Operator = IntEnum("_Operator", "CODE INPUTS OUTPUTS", start=0)
_TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8", 17: "int4"}
_KINDS = {3: "conv_2d", 4: "depthwise_conv_2d", 9: "fully_connected"}
_FLOATS, _QUANTISED = {"float32", "float16"}, {"uint8", "int8", "int16", "int4"}

Tensors = Sequence[tuple[str, tuple[float, ...]]]  # (type, shape)


def refuse_mislabelled(path: Path, precision: str, architecture: Architecture, classes: int) -> None:
    """Hold a file to what is said of it: input and output, the types inside, the network's operators with weights, and
    what the file says of itself.

    Args:
        path: of the `.tflite` file.
        precision, architecture, classes: what the manifest says.

    Raises:
        CheckFailedError: it is of another precision or network.
        InputError: no model.
    """
    if (size_bytes := path.stat().st_size) > LARGEST_BYTES:
        raise InputError(f"{path} is no model of EdgeNAS: {size_bytes >> 20} MB, at most {LARGEST_BYTES >> 20} MB.")
    content = path.read_bytes()
    model = Table.root(content, b"TFL3")
    subgraphs = model.tables(_Model.SUBGRAPHS)
    if len(subgraphs) != 1:
        raise InputError(f"{path} is no model of EdgeNAS: it has {len(subgraphs)} subgraphs, expected 1.")
    tensors = [(_type(each), each.numbers(_Tensor.SHAPE, "i")) for each in subgraphs[0].tables(_Subgraph.TENSORS)]
    end = "float32" if precision == "float32" else "uint8"
    ends = [(end, (1, *architecture.input_shape)), (end, (1, classes))]
    received = [
        tensors[int(index)] if 0 <= index < len(tensors) else ("none", ())
        for slot in (_Subgraph.INPUTS, _Subgraph.OUTPUTS)
        for index in subgraphs[0].numbers(slot, "i")
    ]
    if received != ends:
        _refuse(path, f"an input and an output {_told(ends)}", _told(received))
    _refuse_types(path, precision, {kind for kind, _ in tensors})
    expected = Counter(
        (operator.kind, operator.weights)
        for layer in architecture.layers()
        for operator in layer.operators
        if operator.weights
    )
    found = _weighing(model, subgraphs[0], tensors)
    if sorted(weights for _, weights in expected.elements()) != sorted(weights for _, weights in found.elements()):
        what, there = ", ".join(_sizes(expected - found)), ", ".join(_sizes(found - expected))
        _refuse(path, f"the network {architecture.id} with the weights of {what or 'no more'}", there or "none of them")
    said = read_metadata(content)
    if said is not None and said.version != architecture.id:
        _refuse(path, f"the network {architecture.id}", f"one that says it is {said.version[:40]!r}")


def _refuse(path: Path, expected: str, received: str) -> None:
    raise CheckFailedError(
        f"{path} is not what the manifest says: expected {expected}, received {received}. Train the bundle again."
    )


def _refuse_types(path: Path, precision: str, kinds: set[str]) -> None:
    """Raise where a file has tensors that its precision has not, or lacks those that it has."""
    floats, quantised = kinds & _FLOATS, kinds & _QUANTISED
    fits = {
        "float32": floats == {"float32"} and not quantised,
        "int8": not floats and "int8" in quantised,
        "mixed": floats == {"float32"} and "int8" in quantised,
    }
    if not fits.get(precision, False):
        _refuse(path, f"tensors of a model in {precision}", f"tensors of {', '.join(sorted(kinds))}")


def _type(tensor: Table) -> str:
    number = tensor.number(_Tensor.TYPE, "b")
    return _TYPES.get(number, f"type {number}")


def _weighing(
    model: Table, subgraph: Table, tensors: Sequence[tuple[str, tuple[float, ...]]]
) -> Counter[tuple[str, int]]:
    """The operators that have weights, by kind, with how many numbers their kernel has."""
    codes = [
        max(code.number(_Code.DEPRECATED, "b"), code.number(_Code.BUILTIN, "i"))
        for code in model.tables(_Model.OPERATOR_CODES)
    ]
    found: Counter[tuple[str, int]] = Counter()
    for operator in subgraph.tables(_Subgraph.OPERATORS):
        code, inputs = operator.number(_Operator.CODE, "I"), operator.numbers(_Operator.INPUTS, "i")
        kind = _KINDS.get(codes[code]) if code < len(codes) else None
        if kind is not None and len(inputs) > 1 and 0 <= inputs[1] < len(tensors):
            weights = 1
            for size in tensors[int(inputs[1])][1]:
                weights *= int(size)
            found[kind, weights] += 1
    return found


def _sizes(operators: Counter[tuple[str, int]]) -> list[str]:
    return [f"{kind} {weights}" for kind, weights in sorted(operators.elements())][:5]


def _told(tensors: Tensors) -> str:
    return " and ".join(f"{kind} {list(shape)}" for kind, shape in tensors) or "nothing"
