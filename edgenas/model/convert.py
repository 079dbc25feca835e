"""The one place that converts to `.tflite`.

TensorFlow has announced that `tf.lite` will leave its wheels; what replaces it comes here and nowhere else.
"""

import contextlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgenas.architecture import Architecture, Input, Layer
from edgenas.errors import CheckFailedError, EdgeNASError, reading
from edgenas.model.builder import build_layer_model, build_model, node_of
from edgenas.model.quiet import keras_on_tensorflow, quiet

Precision = Literal["float32", "int8"]
Images = npt.NDArray[np.float32]  # [N, height, width, channels]
PRECISIONS: tuple[Precision, ...] = ("float32", "int8")


@dataclass(frozen=True)
class TensorInfo:
    """A model's input or output.

    Attributes:
        shape: with the batch of 1 first.
        dtype: NumPy's name.
        scale, zero_point: real value = scale * (stored - zero_point); scale 0 where it is not quantised.
    """

    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int


def converter_version() -> str:
    """Part of a latency table's identity; known without importing TensorFlow, which takes seconds."""
    for package in ("tensorflow", "tensorflow-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return f"tensorflow {importlib.metadata.version(package)}"
    raise EdgeNASError("TensorFlow is not installed: pip install edgenas brings it.")


def convert(
    model: Any, precision: Precision, calibration: Images | None = None, float_layers: Sequence[int] = ()
) -> bytes:
    """The `.tflite` file of a whole Keras model: raw pixels in, builtin operators only, batch 1.

    Args:
        model: from `build_model`; its input is float 0-255.
        precision: "float32", or "int8" for full-integer weights and activations (uint8 in and out).
        calibration: for int8, training images [N, height, width, channels] of 0-255; the first one is added with a
            pixel of 0 and with one of 255, so that the input's quantisation is that of raw pixels. (An all-0 and an
            all-255 image would do that too, but what a network makes of them widens the ranges of all its tensors.)

    Raises:
        CheckFailedError: the converted input is not raw pixels (scale 1, zero point 0), or weights are missing.
    """
    shape = tuple(int(side) for side in model.inputs[0].shape[1:])
    if precision == "float32":
        content = _convert(model, [shape], None)
    else:
        if calibration is None or len(calibration) == 0:
            raise ValueError("int8 needs calibration images.")
        ends = np.repeat(calibration[:1].astype(np.float32), 2, axis=0)
        ends[:, 0, 0] = [[0], [255]]
        samples = [[image[None]] for image in (*ends, *calibration.astype(np.float32))]
        content = _convert(model, [shape], samples, "uint8", float_layers)
    check_input(content, precision)
    weights = sum(int(np.prod(weight.shape)) for weight in model.weights if "kernel" in weight.path)
    if len(content) < weights * (4 if precision == "float32" else 1):
        raise CheckFailedError(f"The converter left weights out: {len(content)} bytes for {weights} weights.")
    return content


def convert_layer(layer: Layer, precision: Precision) -> bytes:
    """The `.tflite` file of one layer alone with random weights, for measuring.

    Its int8 inputs and outputs are int8, as between the layers of a whole network; a network's `Input` takes uint8.
    """
    model = build_layer_model(layer)
    if precision == "float32":
        return _convert(model, layer.input_shapes, None)
    top = 255.0 if isinstance(layer.block, Input) else 6.0
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(2):
        samples.append([rng.uniform(0, top, (1, *shape)).astype(np.float32) for shape in layer.input_shapes])
    return _convert(model, layer.input_shapes, samples, "uint8" if top == 255.0 else "int8")


def convert_network(architecture: Architecture, precision: Precision) -> bytes:
    """The `.tflite` file of a whole network with random weights, for measuring."""
    model, images = random_model(architecture)
    return convert(model, precision, images)


def random_model(architecture: Architecture) -> tuple[Any, Images]:
    """The Keras model of a network with random weights, and images [N, height, width, channels] to calibrate it."""
    keras = keras_on_tensorflow()
    keras.utils.set_random_seed(0)
    model = build_model(architecture)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (8, *architecture.input_shape)).astype(np.float32)
    # Gammas and biases as training leaves them: the converter drops what is 0 and keeps equal tensors once, so the file
    # of a network fresh from its initialisers is up to 5% smaller than the one that is deployed.
    for weight in model.weights:
        if weight.path.endswith("gamma"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.path.endswith(("beta", "bias")):
            weight.assign(weight + rng.normal(0, 0.3, weight.shape))
    # Statistics of these images, as training would find some: without them the activations of a deep random network
    # fade or grow, and its int8 scales leave the range that XNNPACK accepts.
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)
    return model, images


def _convert(
    model: Any,
    shapes: Any,
    samples: list[list[Images]] | None,
    int8_input: str = "int8",
    float_layers: Sequence[int] = (),
) -> bytes:
    keras_on_tensorflow()
    import tensorflow as tf

    function = tf.function(model, autograph=False)
    specs = [tf.TensorSpec((1, *shape), tf.float32) for shape in shapes]
    concrete = function.get_concrete_function(specs if len(specs) > 1 else specs[0])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model)
    # Without this line the same call takes three times as long, or leaves the weights out.
    converter.experimental_lower_to_saved_model = False
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if samples is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: iter(samples)
        if not float_layers:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8 if int8_input == "uint8" else tf.int8
        converter.inference_output_type = converter.inference_input_type
    with quiet():
        return _leaving(converter, float_layers) if float_layers else bytes(converter.convert())


def _leaving(converter: Any, float_layers: Sequence[int]) -> bytes:
    """Convert to int8 but for some nodes: TensorFlow's selective quantisation.

    Its public way, `tf.lite.experimental.QuantizationDebugger`, makes files with float32 inputs only.
    """
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.lite.python.convert import mlir_quantize

    converter._experimental_calibrate_only = True
    calibrated = bytes(converter.convert())
    left = [name for name in _made(calibrated, schema.TensorType.FLOAT32) if node_of(name) in float_layers]
    content = bytes(
        mlir_quantize(
            calibrated,
            input_data_type=converter.inference_input_type,
            output_data_type=converter.inference_output_type,
            denylisted_nodes=left,
        )
    )
    found = {node_of(name) for name in _made(content, schema.TensorType.FLOAT32)}
    if missed := set(float_layers) - found:
        raise CheckFailedError(f"The converter was asked to leave layers {sorted(missed)} in float32, and did not.")
    return content


def _made(content: bytes, kind: int) -> list[str]:
    """Names of the tensors of a type that a file's operators write."""
    from ai_edge_litert import schema_py_generated as schema

    graph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    operators = map(graph.Operators, range(graph.OperatorsLength()))
    tensors = [graph.Tensors(number) for operator in operators for number in operator.OutputsAsNumpy()]
    return [tensor.Name().decode() for tensor in tensors if tensor.Type() == kind]


def input_of(content: bytes) -> TensorInfo:
    """What a `.tflite` file takes.

    Raises:
        InputError: it is none that the runtime of this machine reads.
    """
    from ai_edge_litert.interpreter import Interpreter

    with reading("The .tflite file"):
        details = Interpreter(model_content=content).get_input_details()[0]
        scale, zero_point = details["quantization"]
        shape = tuple(int(side) for side in details["shape"])
    return TensorInfo(shape, np.dtype(details["dtype"]).name, float(scale), int(zero_point))


def check_input(content: bytes, precision: Precision) -> None:
    """Raise `CheckFailedError` unless the model takes raw pixels, batch 1."""
    found = input_of(content)
    expected = ("float32", 0.0, 0) if precision == "float32" else ("uint8", 1.0, 0)
    if (found.dtype, found.scale, found.zero_point) != expected or found.shape[0] != 1:
        raise CheckFailedError(
            f"The converted model does not take raw pixels: expected dtype, scale, zero point {expected} and batch 1, "
            f"found {(found.dtype, found.scale, found.zero_point)} and batch {found.shape[0]}."
        )
