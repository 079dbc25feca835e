"""Batch normalisation folded into the convolution before it: the weights that a device really gets."""

from typing import Any

from edgenas.model.quiet import keras_on_tensorflow


def fold(model: Any) -> Any:
    """A Keras model that computes the same as a trained one, without batch normalisation.

    Each convolution has the kernel and the bias that the converter would make of it and its normalisation, and each
    sigmoid is a layer of its own, as it is an operator of its own on a device. It converts to the same operators, and
    its layers have the same names.

    Args:
        model: from `build_model`; it is not changed.

    Raises:
        ValueError: a normalisation that follows no convolution.
    """
    layers = keras_on_tensorflow().layers
    followed = {id(layer.input): layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)}
    inputs = layers.Input(model.inputs[0].shape[1:])
    made = {id(model.inputs[0]): inputs}
    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        taken = layer.input
        x = [made[id(each)] for each in taken] if isinstance(taken, list) else made[id(taken)]
        if has_kernel(layer):
            made[id(layer.output)] = _folded(layer, followed.pop(id(layer.output), None), x)
        elif isinstance(layer, layers.BatchNormalization):
            if id(taken) in followed:
                raise ValueError(f"The normalisation {layer.name} follows no convolution.")
            made[id(layer.output)] = x
        else:
            made[id(layer.output)] = type(layer).from_config(layer.get_config())(x)
    return keras_on_tensorflow().Model(inputs, made[id(model.outputs[0])], name=model.name)


def has_kernel(layer: Any) -> bool:
    """Whether a Keras layer multiplies by weights: a convolution or a dense layer."""
    layers = keras_on_tensorflow().layers
    return isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.Dense)


def _folded(layer: Any, normalisation: Any, x: Any) -> Any:
    """The output of `layer` and its normalisation as one layer, and its sigmoid as another."""
    import numpy as np

    keras = keras_on_tensorflow()
    gated = layer.activation is keras.activations.sigmoid
    config = layer.get_config() | {"use_bias": True} | ({"activation": "linear"} if gated else {})
    copy = type(layer).from_config(config)
    outputs = copy(x)
    kernel, *rest = (np.asarray(weight) for weight in layer.get_weights())
    bias = rest[0] if rest else np.zeros(copy.bias.shape, np.float32)
    if normalisation is not None:
        gamma, beta, mean, variance = (np.asarray(weight) for weight in normalisation.get_weights())
        factor = gamma / np.sqrt(variance + normalisation.epsilon)
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        kernel = kernel * (factor[:, None] if depthwise else factor)
        bias = (bias - mean) * factor + beta
    copy.set_weights([kernel, bias])
    return keras.layers.Activation("sigmoid", name=f"{layer.name}s")(outputs) if gated else outputs
