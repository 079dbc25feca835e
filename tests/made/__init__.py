"""A small trained network as files, made once by `python -m tests.made.make`: who needs a network trains none.

`bundle/` is an int8 bundle as `edgenas train` writes it, with the course of its training beside it; `int8.tflite` and
`float32.tflite` are the converter's own files of the same network, without anything said in them; `weights.npz` are its
weights in Keras.
"""

from pathlib import Path
from typing import Any

import numpy as np

from edgenas.architecture import Architecture

FOLDER = Path(__file__).parent
BUNDLE, INT8, FLOAT32, WEIGHTS = (FOLDER / name for name in ("bundle", "int8.tflite", "float32.tflite", "weights.npz"))
SMALL = Architecture.parse("input_8x8x1 conv_k3_s2_c16_relu6 head_c64_relu6 dense_n10")


def trained_model() -> Any:
    """SMALL in Keras, as it was trained."""
    from edgenas.model import build_model

    model = build_model(SMALL)
    with np.load(WEIGHTS) as weights:
        model.set_weights([weights[name] for name in sorted(weights)])
    return model
