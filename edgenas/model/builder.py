"""Keras models of architectures: one builder a kind of block."""

import functools
import re
import string
from collections.abc import Iterator, Sequence
from typing import Any

from edgenas.architecture import Architecture, Block, Conv, Dense, Head, Input, Layer, MBConv
from edgenas.model.batch_norm import fused_batch_normalisation
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
    return _named(keras.Model(inputs, outputs[-1]), outputs)


def build_layer_model(layer: Layer) -> Any:
    """The Keras model of one layer alone, for measuring."""
    keras = keras_on_tensorflow()
    inputs = [keras.Input(shape) for shape in layer.input_shapes]
    outputs = _build(layer.block, inputs)
    return _named(keras.Model(inputs, outputs), [outputs])


def node_of(name: str) -> int | None:
    """The node of the architecture that a tensor of a converted model belongs to, by its name; None where that does not
    say."""
    found = re.search(r"/l(\d+)[a-z]", name)
    return int(found[1]) if found else None


def _named(model: Any, ends: Sequence[Tensor]) -> Any:
    """Name each layer by the node that it is part of, "l" its number and a letter.

    Names go into the `.tflite` file: Keras' own are long, and count what the process has built before.

    Args:
        model: whole.
        ends: each node's output; a node's layers are those behind it that no node before has.
    """
    model.name = "m"
    makers = {id(layer.output): layer for layer in model.layers if not is_input(layer)}

    def behind(tensor: Tensor) -> Iterator[Any]:
        if (layer := makers.pop(id(tensor), None)) is not None:
            for taken in inputs_of(layer):
                yield from behind(taken)
            yield layer

    for index, layer in enumerate(filter(is_input, model.layers)):
        layer.name = f"i{index}"
    for node, end in enumerate(ends):
        for position, layer in enumerate(behind(end)):
            layer.name = f"l{node:02}{string.ascii_lowercase[position]}"
    return model


def is_input(layer: Any) -> bool:
    """Whether a Keras layer is where a model takes its input."""
    return isinstance(layer, keras_on_tensorflow().layers.InputLayer)


def inputs_of(layer: Any) -> list[Tensor]:
    """The tensors that a Keras layer takes."""
    return list(layer.input) if isinstance(layer.input, list) else [layer.input]


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
    return fused_batch_normalisation()(momentum=BN_MOMENTUM)(x)


def _activate(x: Tensor, activation: str) -> Tensor:
    keras = keras_on_tensorflow()
    if activation == "relu6":
        return keras.layers.ReLU(max_value=6)(x)
    return keras.layers.Activation("hard_swish" if activation == "hardswish" else activation)(x)
