"""The rounding forward pass does what the int8 file does, and passes gradients on."""

from typing import Any

import numpy as np
import pytest

from edgenas.architecture import Architecture
from edgenas.model import fold, keras_on_tensorflow, run_tflite
from edgenas.model.fake_quantised import FakeQuantised, _round_activations, _round_weights
from tests.model.test_convert import COLOUR, HARDSWISH, PLAIN, at_home, file_at_home, images_for, interpreter


def quantised_at_home(network: Architecture) -> Any:
    return FakeQuantised(fold(at_home(network)), images_for(network))


@pytest.mark.parametrize("network", [PLAIN, HARDSWISH, COLOUR], ids=["plain", "hardswish", "colour"])
def test_it_errs_as_the_int8_file_errs(network: Architecture) -> None:
    images = images_for(network)
    exact = np.asarray(at_home(network)(images, training=False))
    simulated = np.asarray(quantised_at_home(network)(images, training=False))
    content = file_at_home(network, "int8")
    scale, zero = interpreter(content).get_output_details()[0]["quantization"]
    on_device = (run_tflite(content, images.astype(np.uint8)).astype(float) - zero) * scale
    errors = [found - exact for found in (simulated, on_device)]
    sizes = [np.abs(error).mean() for error in errors]
    # Rounding is chaotic: a value near a half falls to one side or the other.
    assert sizes[0] == pytest.approx(sizes[1], rel=0.3)
    assert np.corrcoef(errors[0].ravel(), errors[1].ravel())[0, 1] > 0.15


def test_every_output_of_the_file_has_its_range() -> None:
    quantised = quantised_at_home(PLAIN)
    # Convolutions 1 + 3 + 5 + 2 + 1, less those whose activation is fused; additions 2; the gate's mean and product;
    # the head's mean; the classifier. Each is a tensor of its own in the file.
    details = interpreter(file_at_home(PLAIN, "int8"))._get_ops_details()
    learnt = [each for each in details if each["op_name"] not in ("QUANTIZE", "RESHAPE", "LOGISTIC")]
    assert len(quantised.variables) - len(quantised.trainable_variables) == len(learnt)


def test_weights_have_255_levels_for_each_output_channel() -> None:
    keras_on_tensorflow()
    rng = np.random.default_rng(0)
    kernel = (rng.normal(size=(3, 3, 4, 6)) * [1, 10, 0.1, 1, 1, 0]).astype(np.float32)
    found = np.asarray(_round_weights(kernel, depthwise=False))
    steps = np.abs(kernel).max(axis=(0, 1, 2)) / 127
    assert np.abs(found - kernel).max(axis=(0, 1, 2)) == pytest.approx(steps / 2, rel=0.2, abs=1e-6)
    levels = found[..., :5] / steps[:5]
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert (found[..., 5] == 0).all()
    apart = (kernel[..., :1] * np.array([1, 5, 25, 0.2])[:, None]).astype(np.float32)
    depthwise = np.asarray(_round_weights(apart, depthwise=True))
    assert len(np.unique(depthwise[:, :, 3])) > 5, "a small channel has a scale of its own"


def test_gradients_pass_the_rounding_and_stop_at_the_ends() -> None:
    keras_on_tensorflow()
    import tensorflow as tf

    x = tf.constant([-3.0, -1.0, 0.2, 1.9, 2.5])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = _round_activations(x, tf.constant(-1.0), tf.constant(2.0))
    np.testing.assert_allclose(y, [-1, -1, 0.2, 1.9, 2], atol=3 / 255)
    assert tape.gradient(y, x).numpy().tolist() == [0, 1, 1, 1, 0]


def test_ranges_follow_in_training_only() -> None:
    quantised = quantised_at_home(PLAIN)
    ranges = quantised.variables[len(quantised.trainable_variables) :]
    before = [each.numpy() for each in ranges]
    dim = np.full((4, *PLAIN.input_shape), 3, np.float32)
    quantised(dim, training=False)
    assert all((old == new.numpy()).all() for old, new in zip(before, ranges, strict=True))
    quantised(dim, training=True)
    changed = [np.abs(old - new.numpy()).max() > 0 for old, new in zip(before, ranges, strict=True)]
    assert np.mean(changed) > 0.8
    for ends in ranges:
        low, high = ends.numpy()
        assert low <= 0 <= high
