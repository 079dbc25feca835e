"""The fused batch normalisation is Keras' own, but for how long it takes."""

import numpy as np
import pytest

from edgenas.model import fused_batch_normalisation, keras_on_tensorflow


@pytest.mark.parametrize("shape", [(8, 5, 4, 3), (2, 1, 1, 6)])
def test_it_gives_what_keras_gives(shape: tuple[int, ...]) -> None:
    import tensorflow as tf

    keras = keras_on_tensorflow()
    rng = np.random.default_rng(0)
    plain, fused = (kind(momentum=0.9) for kind in (keras.layers.BatchNormalization, fused_batch_normalisation()))
    images = rng.normal(3, 2, shape).astype(np.float32)
    for layer in (plain, fused):
        layer.build(shape)
        layer.gamma.assign(np.linspace(0.5, 2, shape[-1]))
        layer.beta.assign(np.linspace(-1, 1, shape[-1]))
    for _ in range(3):
        gradients = []
        for layer in (plain, fused):
            with tf.GradientTape() as tape:
                inputs = tf.Variable(images)
                loss = tf.reduce_sum(layer(inputs, training=True) ** 2 * np.arange(shape[-1]))
            gradients.append(tape.gradient(loss, [inputs, layer.gamma, layer.beta]))
        np.testing.assert_allclose(plain(images, training=True), fused(images, training=True), atol=1e-4)
        for expected, found in zip(*gradients, strict=True):
            np.testing.assert_allclose(expected, found, atol=2e-3, rtol=1e-3)
    np.testing.assert_allclose(plain.moving_mean, fused.moving_mean, rtol=1e-5)
    np.testing.assert_allclose(plain.moving_variance, fused.moving_variance, rtol=1e-4)
    np.testing.assert_allclose(plain(images), fused(images), atol=1e-5)


def test_a_frozen_layer_stays_as_it_is() -> None:
    layer = fused_batch_normalisation()()
    layer.build((4, 2, 2, 3))
    layer.trainable = False
    images = np.random.default_rng(0).normal(5, 2, (4, 2, 2, 3)).astype(np.float32)
    np.testing.assert_allclose(layer(images, training=True), layer(images), atol=1e-6)
    assert np.allclose(layer.moving_mean, 0)
