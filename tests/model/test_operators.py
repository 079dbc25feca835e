"""Operators are read from the file itself."""

import numpy as np
import pytest

from edgenas.errors import CheckFailedError, InputError
from edgenas.model import input_of, operator_kinds, run_tflite
from tests.made import INT8
from tests.model.test_convert import HARDSWISH, PLAIN, converted


def flex_file() -> bytes:
    """A file with one of TensorFlow's operators, as Keras' own exporter lets through."""
    from edgenas.model import keras_on_tensorflow, quiet

    keras_on_tensorflow()
    import tensorflow as tf

    function = tf.function(lambda x: tf.linalg.det(x), input_signature=[tf.TensorSpec((2, 2), tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    with quiet():
        return bytes(converter.convert())


def test_builtin_ones_have_their_names() -> None:
    kinds = operator_kinds(converted(PLAIN, "float32"))
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MEAN", "FULLY_CONNECTED", "LOGISTIC", "MUL"} <= set(kinds)
    assert not [kind for kind in kinds if ":" in kind]
    assert "HARD_SWISH" in operator_kinds(converted(HARDSWISH, "int8"))
    assert "QUANTIZE" in operator_kinds(converted(PLAIN, "int8"))


def test_one_of_tensorflows_is_named() -> None:
    assert operator_kinds(flex_file()) == ("custom:FlexMatrixDeterminant",)


NONE = [b"", b"abc", b"\x1c\0\0\0TFL3" + b"\xff" * 40]


@pytest.mark.parametrize("content", NONE[1:], ids=["short", "torn"])
def test_what_no_runtime_reads_is_refused(content: bytes) -> None:
    for read in (input_of, lambda model: run_tflite(model, np.zeros((1, 8, 8, 1), np.uint8))):
        with pytest.raises(InputError, match=r"The \.tflite file cannot be read: "):
            read(content)


def test_images_that_a_model_does_not_take() -> None:
    with pytest.raises(InputError, match=r"What the \.tflite file gives cannot be read: .*Dimension mismatch"):
        run_tflite(INT8.read_bytes(), np.zeros((1, 9, 8, 1), np.uint8))


@pytest.mark.parametrize("content", NONE, ids=["empty", "short", "torn"])
def test_what_is_no_file_is_refused(content: bytes) -> None:
    with pytest.raises(CheckFailedError, match=r"This is no \.tflite file: it|The \.tflite file cannot be read: "):
        operator_kinds(content)
