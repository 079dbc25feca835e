"""Memory of a network, from its architecture alone.

`arena_kb` is the static liveness bound of the activations, `model_kb` the size of the `.tflite` file,
`peak_memory_kb` their sum: what a board needs. 1 kB is 1024 bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgenas.architecture import Architecture, Layer
from edgenas.space import Codes, MobileSpace

Values = npt.NDArray[np.float64]
_ELEMENT_BYTES = {"float32": 4, "int8": 1}


@dataclass(frozen=True)
class _FileBytes:
    """What a part of a network takes in its `.tflite` file.

    Least squares over 27 networks of both spaces, relu6 and hardswish (TensorFlow 2.21): largest error 0.5% for
    float32 and 1.2% for int8. An int8 channel carries the scales and zero points of its weights and bias besides.
    """

    weight: float
    bias: float
    weighted: float  # an operator with weights: its tensors, their names
    other: float  # one without
    gate: float  # the five operators of a squeeze-and-excitation together, besides weights and biases
    file: float  # the file itself


_FILE_BYTES = {
    "float32": _FileBytes(4.0, 3.79, 525.67, 115.21, 955.43, 454.91),
    "int8": _FileBytes(1.0, 26.93, 654.37, 151.42, 1166.25, 324.10),
}


def arena_kb(architectures: Sequence[Architecture], precision: str) -> Values:
    """[N] activations live at the worst moment, kB."""
    live = np.array([architecture.live_elements() for architecture in architectures], dtype=float)
    return live * _ELEMENT_BYTES[precision] / 1024


def model_kb(architectures: Sequence[Architecture], precision: str) -> Values:
    """[N] size of the `.tflite` file, kB."""
    sizes = [sum(_layer_bytes(layer, precision) for layer in network.layers()) for network in architectures]
    return (np.array(sizes, dtype=float) + _FILE_BYTES[precision].file) / 1024


def peak_memory_kb(architectures: Sequence[Architecture], precision: str) -> Values:
    """[N] file and activations together, kB."""
    return arena_kb(architectures, precision) + model_kb(architectures, precision)


def memory_of_codes(space: MobileSpace, codes: Codes, precision: str) -> dict[str, Values]:
    """The three figures of many networks at once, as `arena_kb`, `model_kb` and `peak_memory_kb` give them.

    Args:
        space: whose networks are chains, so that only one layer's tensors are live at a time.
        codes: [N, choices].

    Returns:
        name -> [N] kB.
    """
    layers = space.layers()
    index = space.layer_index(codes)
    # One more entry, 0, stands for a slot where nothing stands.
    live = np.array([layer.live_elements() for layer in layers] + [0], dtype=float)
    sizes = np.array([_layer_bytes(layer, precision) for layer in layers] + [0.0])
    arena = live[index].max(axis=1) * _ELEMENT_BYTES[precision] / 1024
    file = (sizes[index].sum(axis=1) + _FILE_BYTES[precision].file) / 1024
    return {"arena_kb": arena, "model_kb": file, "peak_memory_kb": arena + file}


def _layer_bytes(layer: Layer, precision: str) -> float:
    part, operators = _FILE_BYTES[precision], layer.operators
    weights, biases = sum(each.weights for each in operators), sum(each.biases for each in operators)
    gates = sum(each.kind == "logistic" for each in operators)
    weighted = sum(each.weights > 0 for each in operators) - 2 * gates
    other = len(operators) - weighted - 5 * gates
    return (
        part.weight * weights + part.bias * biases + part.weighted * weighted + part.other * other + part.gate * gates
    )
