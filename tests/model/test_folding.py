"""Folding changes nothing that a network computes, and nothing that a device runs."""

import numpy as np
import pytest

from edgenas.architecture import Architecture
from edgenas.model import Precision, fold, keras_on_tensorflow, run_tflite
from tests.model.test_convert import BRANCHED, COLOUR, HARDSWISH, PLAIN, at_home, file_at_home, images_for, operators

networks = pytest.mark.parametrize(
    "network", [PLAIN, HARDSWISH, COLOUR, BRANCHED], ids=["plain", "hardswish", "colour", "branched"]
)


@networks
def test_the_folded_model_computes_the_same(network: Architecture) -> None:
    images = images_for(network)
    model = at_home(network)
    before = [weight.numpy().copy() for weight in model.weights]
    folded = fold(model)
    expected, found = (np.asarray(each(images, training=False)) for each in (model, folded))
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    layers = keras_on_tensorflow().layers
    assert not [layer for layer in folded.layers if isinstance(layer, layers.BatchNormalization)]
    for weight, kept in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), kept)


@networks
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_folded_model_converts_to_the_same_operators(network: Architecture, precision: Precision) -> None:
    images = images_for(network)
    files = [file_at_home(network, precision, folded) for folded in (False, True)]
    assert operators(files[0]) == operators(files[1])
    assert 0.95 < len(files[1]) / len(files[0]) < 1.01
    outputs = [run_tflite(file, images.astype(np.uint8)).astype(float) for file in files]
    assert (outputs[0].argmax(axis=1) == outputs[1].argmax(axis=1)).mean() >= 0.9


def test_a_normalisation_of_something_else_is_refused() -> None:
    keras = keras_on_tensorflow()
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, keras.layers.BatchNormalization()(keras.layers.ReLU()(inputs)))
    with pytest.raises(ValueError, match="follows no convolution"):
        fold(model)
