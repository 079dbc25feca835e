"""Cross-layer equalisation: channels of one tensor brought to one range, so that its int8 scale suits all of them.

As in Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, but by the
ranges of activations on images: weights have a scale for each channel here, activations have not.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.model.builder import inputs_of
from edgenas.model.folding import has_kernel
from edgenas.model.quiet import keras_on_tensorflow

Images = npt.NDArray[np.float32]  # [N, height, width, channels], 0-255
LARGEST = 1000.0  # factor of a channel
# ReLU6 cuts off at 6 whatever the factor: no channel is brought further than half-way there on the images given.
MOST_OF_RELU6 = 3.0
_AT_ONCE = 50  # images in memory


def equalise(model: Any, images: Images) -> Any:
    """Scale up, in place, the channels that are small beside others of their tensor, and take it back in what follows.

    Where a ReLU lies between two convolutions, the one before gets a channel's weights and bias times s, the one after
    its weights for that channel divided by s; s brings the channel to the range of the tensor's largest. The network
    computes the same as before, but for ReLU6 outputs of more than twice what these images gave.

    Args:
        model: from `fold`.
        images: from the training images.

    Returns:
        The model.
    """
    keras = keras_on_tensorflow()
    pairs = _pairs(model)
    if not pairs:
        return model
    inner = keras.Model(model.inputs[0], [activation.output for _, activation, _ in pairs])
    largest = [np.zeros(activation.output.shape[-1]) for _, activation, _ in pairs]
    for start in range(0, len(images), _AT_ONCE):
        found = inner(images[start : start + _AT_ONCE], training=False)
        for most, values in zip(largest, found if isinstance(found, list) else [found], strict=True):
            np.maximum(most, np.asarray(values).max(axis=(0, 1, 2)), out=most)
    for (before, activation, after), most in zip(pairs, largest, strict=True):
        bound = MOST_OF_RELU6 if isinstance(activation, keras.layers.ReLU) else np.inf
        goal = min(float(most.max()), bound)
        factors = np.clip(goal / np.where(most > 0, most, goal), 1.0, LARGEST).astype(np.float32)
        kernel, bias = before.get_weights()
        depthwise = isinstance(before, keras.layers.DepthwiseConv2D)
        before.set_weights([kernel * (factors[:, None] if depthwise else factors), bias * factors])
        kernel, bias = after.get_weights()
        after.set_weights([kernel / factors[:, None], bias])
    return model


def _pairs(model: Any) -> list[tuple[Any, Any, Any]]:
    """(convolution, ReLU, convolution) where nothing else reads what lies between."""
    keras = keras_on_tensorflow()
    readers: dict[int, list[Any]] = {}
    for layer in model.layers:
        for tensor in inputs_of(layer):
            readers.setdefault(id(tensor), []).append(layer)
    found = []
    for layer in model.layers:
        activations = readers.get(id(layer.output), [])
        if not has_kernel(layer) or len(activations) != 1 or not is_relu(activations[0]):
            continue
        after = readers.get(id(activations[0].output), [])
        if len(after) == 1 and isinstance(after[0], keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            found.append((layer, activations[0], after[0]))
    return found


def is_relu(layer: Any) -> bool:
    """Whether a Keras layer is a ReLU, with or without an upper end."""
    keras = keras_on_tensorflow()
    plain = isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.relu
    return plain or isinstance(layer, keras.layers.ReLU)
