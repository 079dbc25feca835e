"""Memory of a network, from its architecture alone.

`arena_kb` is the static liveness bound of the activations, `model_kb` the size of the `.tflite` file,
`peak_memory_kb` their sum: what a board needs. 1 kB is 1024 bytes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgenas.architecture import Architecture, Layer
from edgenas.space import Codes, MobileSpace

Values = npt.NDArray[np.float64]
_ELEMENT_BYTES = {"float32": 4, "int8": 1}
# Bytes of a .tflite file a weight, a bias, an operator, and in all. Least squares over 8 networks of both spaces
# (TensorFlow 2.21), largest error 0.3% for float32 and 0.8% for int8. An int8 channel carries its bias (4 bytes)
# and the scales and zero points of weight and bias (24); buffers are aligned to 16 bytes.
_FILE_BYTES = {"float32": (4.0, 2.04, 215.2, 2731.0), "int8": (1.0, 25.97, 302.2, 3459.0)}


def arena_kb(architectures: Sequence[Architecture], precision: str) -> Values:
    """[N] activations live at the worst moment, kB."""
    live = np.array([architecture.live_elements() for architecture in architectures], dtype=float)
    return live * _ELEMENT_BYTES[precision] / 1024


def model_kb(architectures: Sequence[Architecture], precision: str) -> Values:
    """[N] size of the `.tflite` file, kB."""
    sizes = [sum(_layer_bytes(layer, precision) for layer in network.layers()) for network in architectures]
    return (np.array(sizes, dtype=float) + _FILE_BYTES[precision][3]) / 1024


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
    file = (sizes[index].sum(axis=1) + _FILE_BYTES[precision][3]) / 1024
    return {"arena_kb": arena, "model_kb": file, "peak_memory_kb": arena + file}


def _layer_bytes(layer: Layer, precision: str) -> float:
    weight, bias, operator, _ = _FILE_BYTES[precision]
    parts = layer.operators
    weights, biases = sum(part.weights for part in parts), sum(part.biases for part in parts)
    return weight * weights + bias * biases + operator * len(parts)
