"""Equalising changes what int8 makes of a network, not what the network computes."""

import numpy as np
import pytest

from benchmarks.int8 import spoil
from edgenas.architecture import Architecture
from edgenas.model import convert, equalise, fold, keras_on_tensorflow, run_tflite
from edgenas.model.equalising import MOST_OF_RELU6, _pairs
from tests.model.test_convert import COLOUR, HARDSWISH, PLAIN, at_home, images_for, interpreter, settled

RELU = Architecture.parse(str(PLAIN).replace("relu6", "relu").replace("_se0.25", ""))


ONE_PAIR = Architecture.parse("input_8x8x1 conv_k3_s2_c8_relu6 head_c16_relu6 dense_n10")


@pytest.mark.parametrize(
    "network", [PLAIN, HARDSWISH, COLOUR, RELU, ONE_PAIR], ids=["plain", "hardswish", "colour", "relu", "one_pair"]
)
def test_the_network_computes_the_same(network: Architecture) -> None:
    images = images_for(network)
    folded = fold(at_home(network))
    expected = np.asarray(folded(images, training=False))
    found = np.asarray(equalise(folded, images)(images, training=False))
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_the_channels_of_a_tensor_have_one_range() -> None:
    keras = keras_on_tensorflow()
    images = images_for(RELU)
    folded = equalise(fold(spoil(settled(RELU, images), 200)), images)
    pairs = _pairs(folded)
    assert len(pairs) == 5
    inner = keras.Model(folded.inputs[0], [activation.output for _, activation, _ in pairs])
    for values in inner(images, training=False):
        most = np.asarray(values).max(axis=(0, 1, 2))
        live = most[most > 0]
        np.testing.assert_allclose(live, live.max(), rtol=1e-3)


def test_relu6_keeps_room_above() -> None:
    keras = keras_on_tensorflow()
    images = images_for(PLAIN)
    folded = fold(at_home(PLAIN))
    activations = [activation for _, activation, _ in _pairs(folded)]
    inner = keras.Model(folded.inputs[0], [activation.output for activation in activations])
    before = [np.asarray(values).max(axis=(0, 1, 2)) for values in inner(images, training=False)]
    equalise(folded, images)
    for old, values in zip(before, inner(images, training=False), strict=True):
        new = np.asarray(values).max(axis=(0, 1, 2))
        assert (new <= np.maximum(old, MOST_OF_RELU6) + 1e-4).all()
        assert (new >= old - 1e-4).all()


def test_a_spoiled_network_is_itself_again_in_int8() -> None:
    images = images_for(RELU, 100)
    model = spoil(settled(RELU, images), 500)
    expected = np.asarray(model(images, training=False))

    def error(each: object) -> float:
        content = convert(each, "int8", images)
        scale, zero = interpreter(content).get_output_details()[0]["quantization"]
        found = (run_tflite(content, images.astype(np.uint8)).astype(float) - zero) * scale
        return float(np.abs(found - expected).mean())

    spoiled = error(model)
    assert error(equalise(fold(model), images)) < 0.3 * spoiled
