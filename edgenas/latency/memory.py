"""Memory of a network, from its architecture alone.

`arena_kb` is what TensorFlow Lite Micro (TFLM) needs beside the model, its kTensorArenaSize; `model_kb` the `.tflite`
file; `peak_memory_kb` their sum: what a board needs. `peak_rss_growth_kb` is what a process grows by on a board with an
operating system, where XNNPACK runs the network. 1 kB is 1024 bytes. `benchmarks/memory.py` holds all of them against
the interpreters and the files themselves.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgenas.architecture import Architecture, Dense, Input, Layer, Operator
from edgenas.architecture.graph import Lifetime, most_live
from edgenas.space import Codes, MobileSpace

Values = npt.NDArray[np.float64]
_ELEMENT_BYTES = {"float32": 4, "int8": 1}
_ALIGNMENT = 16  # of what TFLM allocates


def arena_kb(architectures: Sequence[Architecture], precision: str) -> Values:
    """[N] what TFLM's arena holds, kB: activations, and the interpreter's records.

    The records are those of a machine with pointers of 64 bits, such as the `tflite-micro` package reports; a
    microcontroller's are smaller. Kernels with scratch buffers of their own, such as CMSIS-NN's, need those besides.
    """
    return np.array([_of_network(network, precision)[0] for network in architectures], dtype=float) / 1024


def model_kb(architectures: Sequence[Architecture], precision: str) -> Values:
    """[N] size of the trained network's `.tflite` file as a bundle has it, with labels of some 7 letters, kB."""
    return np.array([_of_network(network, precision)[1] for network in architectures], dtype=float) / 1024


def peak_memory_kb(architectures: Sequence[Architecture], precision: str) -> Values:
    """[N] file and arena together, kB."""
    return arena_kb(architectures, precision) + model_kb(architectures, precision)


def mixed_memory_kb(network: Architecture, float_layers: Sequence[int]) -> tuple[float, float]:
    """(arena, file) of an int8 network some of whose layers stay in float32, kB; see `arena_kb` and `model_kb`.

    The arena is that of the whole network in float32, which is no less: where the precision changes, a value is there
    with 1 + 4 bytes, but what a layer reads and writes has 4 + 4.
    """
    layers = network.layers()
    more = sum(_file_bytes(layers[i], "float32") - _file_bytes(layers[i], "int8") for i in float_layers)
    return float(arena_kb([network], "float32")[0]), float(model_kb([network], "int8")[0]) + more / 1024


def memory_of_codes(space: MobileSpace, codes: Codes, precision: str) -> dict[str, Values]:
    """The three figures of many networks at once, as `arena_kb`, `model_kb` and `peak_memory_kb` give them.

    Args:
        space: whose networks are chains.
        codes: [N, choices].

    Returns:
        name -> [N] kB.
    """
    arena, file = _of_chains(space.layers(), space.layer_index(codes), precision)
    return {"arena_kb": arena / 1024, "model_kb": file / 1024, "peak_memory_kb": arena / 1024 + file / 1024}


def peak_rss_growth_kb(
    architectures: Sequence[Architecture], precision: str, runtime_kb: float | None = None
) -> Values:
    """[N] growth of the peak resident memory of a fresh process that loads a network and runs it once, kB.

    The file is mapped, XNNPACK packs its weights into a copy of its own, and both are touched. The constants hold for
    one runtime and one kind of core (see `_XNNPACK`).

    Args:
        architectures: networks.
        precision: of all of them.
        runtime_kb: what the runtime takes by itself on the device: the growth that one network has there, less what is
            predicted of it with 0. None: as where the constants are from.
    """
    runtime = _XNNPACK[precision].runtime / 1024 if runtime_kb is None else runtime_kb
    growths = [_resident_bytes(network, precision) for network in architectures]
    return np.array(growths, dtype=float) / 1024 + 2 * model_kb(architectures, precision) + runtime


# One network, and many chains at once


def _of_network(network: Architecture, precision: str) -> tuple[float, float]:
    """(arena, file) in bytes."""
    layers = network.layers()
    arena, file = _of_chains(layers, np.arange(len(layers))[None], precision)
    # In a chain this is the largest of its layers; branches hold more.
    live = most_live(_tensors(network, precision))
    records = sum(_share(layer, precision).records for layer in layers) + _MICRO_BYTES[precision]["network"]
    return max(float(arena[0]), live + records), float(file[0])


def _of_chains(layers: Sequence[Layer], index: npt.NDArray[np.integer], precision: str) -> tuple[Values, Values]:
    """[N], [N] bytes of arena and file of the chains whose layers stand at `index` [N, slots]; len(layers): nothing."""
    shares = [dataclasses.astuple(_share(layer, precision)) for layer in layers]
    nothing = (0,) * len(shares[0])
    live, waiting, below, records, file = (
        np.array(each, dtype=float)[index] for each in zip(*shares, nothing, strict=True)
    )
    activations = np.maximum(live.max(axis=1), _stacked(waiting, below, index < len(layers)))
    return (
        activations + records.sum(axis=1) + _MICRO_BYTES[precision]["network"],
        file.sum(axis=1) + _FILE_BYTES[precision].network + _METADATA_BYTES,
    )


def _stacked(waiting: Values, below: Values, here: npt.NDArray[np.bool_]) -> Values:
    """[N] bytes that TFLM's planner needs where it cannot put two inputs that wait for an addition side by side.

    `GreedyMemoryPlanner` places the large tensors first, from 0 on, and of equal ones the later first: a layer's input
    comes to stand right above the tensors that are `below` it. A layer that adds its input holds it until its output is
    written; the output, being the next layer's input, stands where it can. Where both want the same place, the earlier
    one goes on top. The rule knows neighbours only: against the planner itself a few networks come out too small.

    Args:
        waiting, below: [N, slots] of each layer (see `_Share`).
        here: [N, slots] whether a layer stands there.
    """
    worst = np.zeros(len(here))
    held, under = np.zeros(len(here)), np.zeros(len(here))
    for slot in range(here.shape[1]):
        present, wanted = here[:, slot], below[:, slot]
        clash = present & (np.abs(under - wanted) < held)
        worst = np.where(clash, np.maximum(worst, wanted + 2 * held), worst)
        held, under = np.where(present, waiting[:, slot], held), np.where(present, wanted, under)
    return worst


# A layer's share


@dataclass(frozen=True)
class _Share:
    """What a layer adds to a network's memory, bytes.

    Attributes:
        live: activations at its worst moment.
        waiting: its input, where that waits for an addition at the end; else 0.
        below: the tensors that are live with its input and at least as large.
        records: what TFLM keeps of its operators and tensors.
        file: of the `.tflite` file.
    """

    live: int
    waiting: int
    below: int
    records: int
    file: int


# Every candidate of a search is made of the same few hundred layers.
@functools.lru_cache(maxsize=65536)
def _share(layer: Layer, precision: str) -> _Share:
    operators, tensors = _deployed(layer, precision), _tensors(layer, precision)
    given = tensors[0]
    large = [
        dataclasses.replace(other, last=min(other.last, given.last))
        for other in tensors[len(layer.input_shapes) :]
        if other.size >= given.size and other.first <= given.last
    ]
    waits = len(operators) > 1 and 0 in operators[-1].reads
    records, file = _record_bytes(operators, precision), _file_bytes(layer, precision)
    return _Share(most_live(tensors), given.size if waits else 0, most_live(large), records, file)


def _deployed(layer: Layer, precision: str) -> tuple[Operator, ...]:
    """The operators of a layer in a whole network, where ends differ from a layer that is measured alone.

    The converter folds the scaling of pixels into the first convolution; int8 models take and give uint8.
    """
    if isinstance(layer.block, Input):
        return () if precision == "float32" else (Operator("quantize", (0,), layer.output_shape),)
    if isinstance(layer.block, Dense) and precision == "int8":
        return (*layer.operators, Operator("quantize", (1,), layer.output_shape))
    return layer.operators


def _tensors(subject: Layer | Architecture, precision: str) -> list[Lifetime]:
    """Activations and scratch buffers as TFLM allocates them; sizes are bytes."""

    def deployed(layer: Layer) -> tuple[Operator, ...]:
        return _deployed(layer, precision)

    size = _ELEMENT_BYTES[precision]
    tensors = [(tensor, tensor.size * size) for tensor in subject.lifetimes(deployed)]
    if precision == "int8":
        # A mean sums in 32 bits (PrepareMeanOrSum in TFLM's reduce_common.cc).
        layers = [subject] if isinstance(subject, Layer) else subject.layers()
        operators = [operator for layer in layers for operator in deployed(layer)]
        tensors += [
            (Lifetime(step, step, 0), 4 * operator.shape[2])
            for step, operator in enumerate(operators)
            if operator.kind == "mean"
        ]
    return [dataclasses.replace(tensor, size=_aligned(size_bytes)) for tensor, size_bytes in tensors]


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


# TFLM's records

# sizeof TfLiteEvalTensor, and of NodeAndRegistration, on 64 bits.
_TENSOR_BYTES, _NODE_BYTES = 24, 64
_CONVOLUTIONS = ("conv_2d", "depthwise_conv_2d")
# What the kernels keep of one operator: op data, rounded up, and options. Sizes of TFLM's structures on 64 bits
# (tflite-micro 0.dev20261023); "network" is the interpreter itself, the tensors at both ends and the axes of the means.
_MICRO_BYTES = {
    precision: {
        "conv_2d": 108,
        "depthwise_conv_2d": 108,
        "fully_connected": 64,
        "mean": 52 if precision == "float32" else 60,  # int8: the handle of a scratch buffer
        "mul": 52,
        "logistic": 32,
        "add": 72,
        "hardswish": 32,
        "quantize": 32,
        "network": network,
    }
    for precision, network in (("float32", 764), ("int8", 924))
}


def _record_bytes(operators: Sequence[Operator], precision: str) -> int:
    total = 0
    for operator in operators:
        tensors = 3 if operator.weights else 1  # with kernel and bias
        total += _NODE_BYTES + tensors * _TENSOR_BYTES + _MICRO_BYTES[precision][operator.kind]
        if operator.kind in _CONVOLUTIONS:
            total += 2 * _aligned(4 * operator.biases)  # a multiplier and a shift a channel, for float32 too
    return total


# The file


@dataclass(frozen=True)
class _FileBytes:
    """What the parts of a network take in a `.tflite` file besides their numbers: tables, names, quantisation.

    Least squares over 41 networks of both spaces at five input sizes, relu6 and hardswish, all biases and gammas drawn
    at random as training leaves them (TensorFlow 2.21). A network that was never trained has a smaller file: the
    converter drops what is 0 and keeps equal tensors once.
    """

    activated: int  # a convolution with an activation
    separable: int  # a depthwise convolution and the linear one after it
    gate: int  # the five operators of a squeeze-and-excitation
    add: int
    hardswish: int
    network: int  # the file itself, its ends and its classifier
    # Each weight and each bias of int8 has a scale of 4 bytes and a zero point of 8 for every output channel.
    channel: int


_FILE_BYTES = {
    "float32": _FileBytes(478, 1060, 1254, 133, 129, 1350, 0),
    "int8": _FileBytes(559, 1220, 1527, 176, 159, 1862, 24),
}


# TFLite metadata, which every bundle's file has (edgenas.model.metadata): the tables and texts with the zip around the
# labels, a label of middling length, and each tensor's place in the list of buffers, which is written anew.
_METADATA_BYTES, _LABEL_BYTES, _BUFFER_BYTES = 1080, 8, 4


def _file_bytes(layer: Layer, precision: str) -> int:
    part, kinds = _FILE_BYTES[precision], [operator.kind for operator in layer.operators]
    weights = sum(operator.weights for operator in layer.operators)
    biases = sum(operator.biases for operator in layer.operators)
    gates, separable = kinds.count("logistic"), kinds.count("depthwise_conv_2d")
    labels = layer.block.classes if isinstance(layer.block, Dense) else 0
    tensors = sum(3 if operator.weights else 1 for operator in layer.operators)
    return (
        _ELEMENT_BYTES[precision] * weights
        + (4 + part.channel) * biases
        + part.activated * (kinds.count("conv_2d") - separable - 2 * gates)
        + part.separable * separable
        + part.gate * gates
        + part.add * kinds.count("add")
        + part.hardswish * kinds.count("hardswish")
        + _LABEL_BYTES * labels
        + _BUFFER_BYTES * tensors
    )


# XNNPACK's memory


@dataclass(frozen=True)
class _Xnnpack:
    """What a process takes, bytes.

    Least squares over the networks that `_FileBytes` names, with LiteRT 2.3 on x86-64 with AVX-512, one thread. On
    other cores tiles differ, and the runtime's own share is that of its libraries.

    Attributes:
        runtime: LiteRT's and NumPy's own pages.
        operator: what each operator takes.
        pixel: a pixel's channel of the image, in the agent's random input and the tensor.
        tile: weights that XNNPACK packs for one of a depthwise convolution that it has no kernel for.
    """

    runtime: int
    operator: int
    pixel: int
    tile: int


_XNNPACK = {"float32": _Xnnpack(11_310_000, 4800, 7, 16), "int8": _Xnnpack(11_785_000, 7060, 3, 128)}
_MOST_TAPS = 25  # of XNNPACK's depthwise kernels; it runs a larger one as a grouped convolution
_POINTER_BYTES = 8


def _resident_bytes(network: Architecture, precision: str) -> int:
    """What a process grows by, besides the runtime, the file and its packed copy."""
    part, layers = _XNNPACK[precision], network.layers()
    return (
        part.operator * sum(len(_deployed(layer, precision)) for layer in layers)
        + part.pixel * math.prod(network.input_shape)
        + most_live(_tensors(network, precision))
        + sum(_packing_bytes(layer, precision) for layer in layers)
    )


def _packing_bytes(layer: Layer, precision: str) -> int:
    """Indirection buffers, and weights that are packed to more than their size.

    A convolution of more than one tap reads pixels through pointers: one for each output and tap, or, in a depthwise
    kernel, for each tap's row and each input column of a row of outputs (XNNPACK's indirection.c).
    """
    pointers, packed = 0, 0
    shapes = [*layer.input_shapes, *(operator.shape for operator in layer.operators)]
    for operator in layer.operators:
        height, width, channels = operator.shape
        read = shapes[operator.reads[0]]
        depthwise = operator.kind == "depthwise_conv_2d"
        taps = operator.weights // (channels if depthwise else channels * read[2]) if operator.weights else 1
        if operator.kind not in _CONVOLUTIONS or taps == 1:
            continue
        if depthwise and taps <= _MOST_TAPS:
            pointers += height * read[1] * math.isqrt(taps)
            continue
        pointers += height * width * taps
        if depthwise:
            packed += _XNNPACK[precision].tile * _ELEMENT_BYTES[precision] * operator.weights
    return _POINTER_BYTES * pointers + packed
