"""Layers for the tests of the kernels inside them, made once by `python -m tests.device.made`.

test_kernels.py makes one of them again, and compares.
"""

import itertools
from pathlib import Path

from edgenas.architecture import Layer, parse_block
from edgenas.model import Precision

FOLDER = Path(__file__).with_name("layers")
PRECISIONS: tuple[Precision, ...] = ("float32", "int8")
NAMES = tuple(itertools.product(("k3_relu6", "k7_relu6", "k3_hardswish"), PRECISIONS))


def path_of(name: str, precision: Precision) -> Path:
    return FOLDER / f"{name}_{precision}.tflite"


def make(name: str, precision: Precision) -> bytes:
    """A file anew."""
    from edgenas.model import convert_layer

    kernel, activation = name.split("_")
    return convert_layer(Layer(parse_block(f"mbconv_{kernel}_e3_s1_c16_{activation}"), ((28, 28, 16),)), precision)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for _name, _precision in NAMES:
        path_of(_name, _precision).write_bytes(make(_name, _precision))
