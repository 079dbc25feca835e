"""A network whose forward pass rounds as its int8 file will: what quantisation-aware fine-tuning trains.

As in Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018, with TensorFlow Lite's own scheme: weights symmetric, a scale for each output channel; activations
asymmetric, one scale for each tensor. tensorflow-model-optimization does the same for Keras 2 only.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.model.equalising import is_relu
from edgenas.model.folding import has_kernel
from edgenas.model.quiet import keras_on_tensorflow

Images = npt.NDArray[np.float32]  # [N, height, width, channels], 0-255
DECAY = 0.99  # of the moving average that the ends of an activation's range follow
SIGMOID = (0.0, 255 / 256)  # the range that TensorFlow Lite fixes for it
_AT_ONCE = 50  # images in memory
_LEAST = 1e-6  # width of a range: that of a tensor of zeros


class FakeQuantised:
    """A folded network that rounds on its way.

    Gradients pass the rounding as if it were not there (straight-through: Bengio et al., 2013), except where a value
    is cut off at the end of its range.

    Args:
        model: from `fold`; training this trains its weights.
        calibration: images [N, height, width, channels] of 0-255, from which the ranges start.

    Attributes:
        model: the network itself.
        inputs: its inputs, as a Keras model has them.
    """

    def __init__(self, model: Any, calibration: Images) -> None:
        import tensorflow as tf

        self.model = model
        self.inputs = model.inputs
        self._ranges = {layer.name: tf.Variable([0.0, 0.0], trainable=False) for layer in _rounded_layers(model)}
        observe = tf.function(self._observe, autograph=False, reduce_retracing=True)
        for start in range(0, len(calibration), _AT_ONCE):
            observe(tf.constant(calibration[start : start + _AT_ONCE], tf.float32))

    @property
    def trainable_variables(self) -> list[Any]:
        """The network's kernels and biases."""
        return list(self.model.trainable_variables)

    @property
    def variables(self) -> list[Any]:
        """All that training changes: kernels, biases and the ranges of activations."""
        return [*self.trainable_variables, *self._ranges.values()]

    def __call__(self, images: Any, training: bool = False) -> Any:
        """[B, classes] logits of raw images [B, height, width, channels], rounded; in training the ranges follow."""

        def rounded(layer: Any, x: Any) -> Any:
            if _is_sigmoid(layer):
                return _round_activations(x, *SIGMOID)
            ends = self._ranges.get(layer.name)
            if ends is None:
                return x
            if training:
                ends.assign(DECAY * ends + (1 - DECAY) * _extremes(x))
            return _round_activations(x, ends[0], ends[1])

        return self._forward(images, rounded, round_weights=True)

    def _observe(self, images: Any) -> None:
        """Widen the ranges to what these images make of the network without rounding."""
        import tensorflow as tf

        def widened(layer: Any, x: Any) -> Any:
            if (ends := self._ranges.get(layer.name)) is not None:
                low, high = tf.unstack(_extremes(x))
                ends.assign([tf.minimum(ends[0], low), tf.maximum(ends[1], high)])
            return x

        self._forward(images, widened, round_weights=False)

    def _forward(self, images: Any, after: Any, round_weights: bool) -> Any:
        layers = keras_on_tensorflow().layers
        values = {id(self.model.inputs[0]): images}
        for layer in self.model.layers:
            if isinstance(layer, layers.InputLayer):
                continue
            taken = layer.input
            x = [values[id(each)] for each in taken] if isinstance(taken, list) else values[id(taken)]
            if round_weights and has_kernel(layer):
                kernel, bias = layer.trainable_variables
                kernel = _round_weights(kernel, isinstance(layer, layers.DepthwiseConv2D))
                outputs, _ = layer.stateless_call([kernel, bias], [], x)
            else:
                outputs = layer(x)
            values[id(layer.output)] = after(layer, outputs)
        return values[id(self.model.outputs[0])]


def _rounded_layers(model: Any) -> list[Any]:
    """The layers whose output is a tensor of the int8 file with a range to be learnt.

    Not the scaling of pixels, which goes into the first kernel; not what only reshapes; not what feeds a ReLU, which
    the operator before it runs; not a sigmoid, whose range is fixed.
    """
    layers = keras_on_tensorflow().layers
    fused = {id(layer.input) for layer in model.layers if is_relu(layer)}
    none = layers.InputLayer | layers.Rescaling | layers.Flatten
    return [
        layer
        for layer in model.layers
        if not isinstance(layer, none) and not _is_sigmoid(layer) and id(layer.output) not in fused
    ]


def _is_sigmoid(layer: Any) -> bool:
    keras = keras_on_tensorflow()
    return isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.sigmoid


def _extremes(x: Any) -> Any:
    """[2] least and greatest value; 0 lies always between: it must be a whole number on the int8 scale."""
    import tensorflow as tf

    return tf.stack([tf.minimum(tf.reduce_min(x), 0.0), tf.maximum(tf.reduce_max(x), 0.0)])


def _round_activations(x: Any, low: Any, high: Any) -> Any:
    import tensorflow as tf

    high = tf.maximum(high, low + _LEAST)

    # A gradient of our own: TensorFlow's refuses to be deterministic.
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def rounded(values: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            return upstream * tf.cast((values >= low) & (values <= high), values.dtype)

        return tf.quantization.fake_quant_with_min_max_vars(values, low, high, num_bits=8), gradient

    return rounded(x)


def _round_weights(kernel: Any, depthwise: bool) -> Any:
    """The kernel on 255 levels, symmetric, a scale for each output channel: its last axis, or for a depthwise
    convolution [height, width, channels, 1] the one before."""
    import tensorflow as tf

    values = tf.convert_to_tensor(kernel)
    flat = tf.reshape(values, (-1, values.shape[-2] if depthwise else values.shape[-1]))
    most = tf.maximum(tf.reduce_max(tf.abs(flat), axis=0), _LEAST)
    rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(flat, -most, most, num_bits=8, narrow_range=True)
    return values + tf.stop_gradient(tf.reshape(rounded, values.shape) - values)
