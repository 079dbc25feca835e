"""Keras models of architectures: one builder a kind of block."""

import functools
from collections.abc import Sequence
from typing import Any

from edgenas.architecture import Architecture, Block, Conv, Dense, Head, Input, Layer, MBConv
from edgenas.model.quiet import keras_on_tensorflow

Tensor = Any  # a symbolic Keras tensor [B, height, width, channels]
BN_MOMENTUM = 0.9  # short trainings have few steps for the statistics to settle


def build_model(architecture: Architecture) -> Any:
    """The Keras model of an architecture.

    Its input is the raw image, float 0-255, [B, height, width, channels]; its output one logit a class, [B, classes].
    """
    keras = keras_on_tensorflow()
    inputs = keras.Input(architecture.input_shape)
    outputs: list[Tensor] = []
    for index, node in enumerate(architecture.nodes):
        sources = [outputs[source] for source in architecture.sources(index)] if index else [inputs]
        outputs.append(_build(node.block, sources))
    return short_names(keras.Model(inputs, outputs[-1]))


def build_layer_model(layer: Layer) -> Any:
    """The Keras model of one layer alone, for measuring."""
    keras = keras_on_tensorflow()
    inputs = [keras.Input(shape) for shape in layer.input_shapes]
    return short_names(keras.Model(inputs, _build(layer.block, inputs)))


def short_names(model: Any) -> Any:
    """Names go into the `.tflite` file: Keras' own are long, and count what the process has built before."""
    model.name = "m"
    for index, layer in enumerate(model.layers):
        layer.name = f"l{index:03}"
    return model


@functools.singledispatch
def _build(block: Block, inputs: Sequence[Tensor]) -> Tensor:
    raise TypeError(f"There is no Keras builder for {type(block).__name__}.")


@_build.register
def _(block: Input, inputs: Sequence[Tensor]) -> Tensor:
    return keras_on_tensorflow().layers.Rescaling(1 / 255)(inputs[0])


@_build.register
def _(block: Conv, inputs: Sequence[Tensor]) -> Tensor:
    return _activate(_convolve(inputs[0], block.channels, block.kernel, block.stride), block.activation)


@_build.register
def _(block: MBConv, inputs: Sequence[Tensor]) -> Tensor:
    layers = keras_on_tensorflow().layers
    x = inputs[0]
    channels = x.shape[-1]
    if block.expansion > 1:
        x = _activate(_convolve(x, channels * block.expansion, 1, 1), block.activation)
    x = layers.DepthwiseConv2D(block.kernel, strides=block.stride, padding="same", use_bias=False)(x)
    x = _activate(_normalise(x), block.activation)
    if block.se_ratio > 0:
        gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
        # Biases of 1 keep the few squeezed units alive: a gate whose units are all dead has an int8 scale near 0,
        # and XNNPACK refuses the whole model.
        gate = layers.Conv2D(block.squeezed(channels), 1, activation="relu", bias_initializer="ones")(gate)
        gate = layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(gate)
        x = layers.Multiply()([x, gate])
    x = _convolve(x, block.channels, 1, 1)
    return layers.Add()([inputs[0], x]) if block.stride == 1 and channels == block.channels else x


@_build.register
def _(block: Head, inputs: Sequence[Tensor]) -> Tensor:
    x = _activate(_convolve(inputs[0], block.channels, 1, 1), block.activation)
    return keras_on_tensorflow().layers.GlobalAveragePooling2D(keepdims=True)(x)


@_build.register
def _(block: Dense, inputs: Sequence[Tensor]) -> Tensor:
    layers = keras_on_tensorflow().layers
    return layers.Dense(block.classes)(layers.Flatten()(inputs[0]))


def _convolve(x: Tensor, channels: int, kernel: int, stride: int) -> Tensor:
    layers = keras_on_tensorflow().layers
    x = layers.Conv2D(channels, kernel, stride, "same", use_bias=False, kernel_initializer="he_normal")(x)
    return _normalise(x)


def _normalise(x: Tensor) -> Tensor:
    return keras_on_tensorflow().layers.BatchNormalization(momentum=BN_MOMENTUM)(x)


def _activate(x: Tensor, activation: str) -> Tensor:
    keras = keras_on_tensorflow()
    if activation == "relu6":
        return keras.layers.ReLU(max_value=6)(x)
    return keras.layers.Activation("hard_swish" if activation == "hardswish" else activation)(x)
