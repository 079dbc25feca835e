"""A bundle as C++ source for TensorFlow Lite Micro: the model as an array, its labels, and the arena that it needs."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgenas.deploy.bundle import Bundle
from edgenas.errors import InputError
from edgenas.evaluation.data.images import check_policy
from edgenas.files import check_name
from edgenas.latency.memory import arena_kb
from edgenas.model import PRECISIONS, input_of
from edgenas.model.metadata import operators_of

# Of the arena, besides what is predicted: the rule that predicts how the interpreter lays activations out was up to 7%
# below its planner (tests/latency/test_memory.py).
ARENA_MARGIN = 0.1
_ARENA_ALIGNMENT = 16
_PER_LINE = 16
# Operators of .tflite files, and what MicroMutableOpResolver's methods call them.
_MICRO_NAMES = {
    "ADD": "Add",
    "AVERAGE_POOL_2D": "AveragePool2D",
    "CONCATENATION": "Concatenation",
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "DEQUANTIZE": "Dequantize",
    "FULLY_CONNECTED": "FullyConnected",
    "HARD_SWISH": "HardSwish",
    "LOGISTIC": "Logistic",
    "MAX_POOL_2D": "MaxPool2D",
    "MEAN": "Mean",
    "MUL": "Mul",
    "PAD": "Pad",
    "QUANTIZE": "Quantize",
    "RELU": "Relu",
    "RELU6": "Relu6",
    "RESHAPE": "Reshape",
}


@dataclass(frozen=True)
class CArray:
    """Two files of source.

    Attributes:
        identifier: what the names in them begin with.
        header, source: what they hold, ASCII.
        arena_bytes: for the interpreter; `arena_predicted_bytes` and the margin.
        operators: names of MicroMutableOpResolver's methods, without "Add".
    """

    identifier: str
    header: str
    source: str
    arena_bytes: int
    arena_predicted_bytes: int
    operators: tuple[str, ...]

    @property
    def files(self) -> dict[str, str]:
        """What they hold, by name."""
        return {f"{self.identifier}_model.h": self.header, f"{self.identifier}_model.cc": self.source}


def c_array(bundle: Bundle, name: str) -> CArray:
    """The source of a bundle.

    Args:
        bundle: int8 or float32.
        name: what names in it begin with; '.' and '-' become '_'.

    Raises:
        InputError: a name that begins with a digit, or an operator or precision that TensorFlow Lite Micro's arena is
            not predicted for.
    """
    content, precision = bundle.model_path.read_bytes(), bundle.manifest.precision
    if precision not in PRECISIONS:
        raise InputError(f"Expected a bundle of {' or '.join(PRECISIONS)} for c-array, received {precision!r}.")
    identifier = _identifier(name)
    operators = tuple(_micro_name(operator) for operator in operators_of(content))
    predicted_bytes = math.ceil(float(arena_kb([bundle.architecture], precision)[0]) * 1024)
    arena_bytes = math.ceil(predicted_bytes * (1 + ARENA_MARGIN) / _ARENA_ALIGNMENT) * _ARENA_ALIGNMENT
    comment = "".join(f"// {line}\n" for line in _comment(bundle, content, identifier, predicted_bytes))
    return CArray(
        identifier=identifier,
        header=comment + _header(identifier, len(content), len(bundle.labels), arena_bytes, operators),
        source="".join(_source(identifier, content, bundle.labels)),
        arena_bytes=arena_bytes,
        arena_predicted_bytes=predicted_bytes,
        operators=operators,
    )


def c_string(text: str) -> str:
    """A literal of C and C++ that holds the UTF-8 bytes of `text`, in ASCII.

    What is not plain is written as three octal digits: unlike hexadecimal ones they end by themselves. A question mark
    is escaped, since two of them may begin a trigraph.
    """
    plain = {ord(character) for character in map(chr, range(0x20, 0x7F)) if character not in '"\\?'}
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def _identifier(name: str) -> str:
    identifier = re.sub(r"[.-]", "_", check_name("model", name))
    if identifier[0].isdigit():
        raise InputError(f"{name!r} begins with a digit, and no name in C does: give another with --as NAME.")
    return identifier


def _micro_name(operator: str) -> str:
    if operator not in _MICRO_NAMES:
        raise InputError(
            f"The model has the operator {operator}, which c-array does not know in TensorFlow Lite Micro."
        )
    return _MICRO_NAMES[operator]


def _comment(bundle: Bundle, content: bytes, identifier: str, predicted_bytes: int) -> Iterator[str]:
    """Lines for whoever reads the header; nothing in them that could end a line or a comment."""
    preprocessing = bundle.manifest.preprocessing
    dtype = input_of(content).dtype
    shape = "x".join(str(side) for side in preprocessing.input_shape)
    yield f"Written by `edgenas export --format c-array`: network {bundle.architecture.id}."
    yield ""
    yield f"Input: {shape} (height, width, channels), {dtype}, raw pixels of 0-255: normalisation is inside the model."
    yield f"An image of another size is brought to this one by '{check_policy(preprocessing.policy)}'."
    yield f"Output: {len(bundle.labels)} values, {dtype}, one for each of {identifier}_labels; the largest answers."
    yield ""
    yield f"{identifier}_arena_size_bytes: {predicted_bytes} predicted for TensorFlow Lite Micro's reference kernels"
    yield f"where pointers have 64 bits, and {ARENA_MARGIN:.0%} more. Kernels with scratch buffers of their own, such"
    yield "as CMSIS-NN's, need those besides; once it runs, MicroInterpreter::arena_used_bytes() says what it took."


def _header(identifier: str, size_bytes: int, labels: int, arena_bytes: int, operators: Sequence[str]) -> str:
    guard = f"EDGENAS_{identifier.upper()}_MODEL_H_"
    added = "".join(f"  resolver.Add{operator}();\n" for operator in operators)
    return f"""#ifndef {guard}
#define {guard}

constexpr unsigned int {identifier}_model_size_bytes = {size_bytes};
extern const unsigned char {identifier}_model[{identifier}_model_size_bytes];

constexpr unsigned int {identifier}_label_count = {labels};
extern const char* const {identifier}_labels[{identifier}_label_count];

constexpr unsigned int {identifier}_arena_size_bytes = {arena_bytes};

// tflite::MicroMutableOpResolver<{identifier}_operator_count> resolver; {identifier}_add_operators(resolver);
constexpr unsigned int {identifier}_operator_count = {len(operators)};
template <typename Resolver>
void {identifier}_add_operators(Resolver& resolver) {{
{added}}}

#endif  // {guard}
"""


def _source(identifier: str, content: bytes, labels: Sequence[str]) -> Iterator[str]:
    yield f'#include "{identifier}_model.h"\n\n'
    yield f"alignas(16) const unsigned char {identifier}_model[{identifier}_model_size_bytes] = {{\n"
    for start in range(0, len(content), _PER_LINE):
        yield "  " + " ".join(f"0x{byte:02x}," for byte in content[start : start + _PER_LINE]) + "\n"
    yield f"}};\n\nconst char* const {identifier}_labels[{identifier}_label_count] = {{\n"
    for label in labels:
        yield f"  {c_string(label)},\n"
    yield "};\n"
