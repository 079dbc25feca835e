"""From an `Architecture` to a Keras model, and from that to a `.tflite` file."""

from edgenas.model.batch_norm import fused_batch_normalisation
from edgenas.model.builder import build_layer_model, build_model
from edgenas.model.convert import (
    PRECISIONS,
    Precision,
    TensorInfo,
    convert,
    convert_layer,
    convert_network,
    converter_version,
    input_of,
)
from edgenas.model.equalising import equalise
from edgenas.model.folding import fold
from edgenas.model.interpret import class_scores, run_tflite
from edgenas.model.operators import operator_kinds
from edgenas.model.quiet import keras_on_tensorflow, quiet
from edgenas.model.workers import MODELS, ConversionPool, Jobs, end_with_parent, wait_for

__all__ = [
    "MODELS",
    "PRECISIONS",
    "ConversionPool",
    "Jobs",
    "Precision",
    "TensorInfo",
    "build_layer_model",
    "build_model",
    "class_scores",
    "convert",
    "convert_layer",
    "convert_network",
    "converter_version",
    "end_with_parent",
    "equalise",
    "fold",
    "fused_batch_normalisation",
    "input_of",
    "keras_on_tensorflow",
    "operator_kinds",
    "quiet",
    "run_tflite",
    "wait_for",
]
