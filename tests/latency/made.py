"""A small plan and its converted files, made once by `python -m tests.latency.made`: measuring them converts nothing.

16 networks of one block each, the 23 layers that make them all, and what is measured beside any model. What a virtual
machine reads of a file are its operators and their tensors; test_made.py makes some of the files again and compares.
"""

import itertools
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Self

import edgenas.files as files
from edgenas.architecture import Architecture, Layer
from edgenas.latency.profiling.measuring import REFERENCE
from edgenas.latency.profiling.planning import Plan
from edgenas.latency.profiling.profiler import EMPTY
from edgenas.model import Precision
from edgenas.space import MobileSpace

ARCHIVE = Path(__file__).with_name("made.zip")
SPACE = MobileSpace("tiny", (32, 32, 3), 10)
Subject = Architecture | Layer


def _networks() -> list[Architecture]:
    kinds = itertools.product((1, 2), (16, 24), (1, 3), (3, 5))
    return [
        Architecture.parse(
            f"input_32x32x3 conv_k3_s2_c16_relu6 mbconv_k{kernel}_e{expansion}_s{stride}_c{width}_relu6 head_c64_relu6 "
            "dense_n10"
        )
        for stride, width, expansion, kernel in kinds
    ]


NETWORKS = _networks()
LAYERS = tuple(dict.fromkeys(layer for network in NETWORKS for layer in network.layers()))
CALIBRATION, CERTIFICATE = (0, 7, 10, 13), (3, 6, 12)  # every kind of block is in each set
PLAN = Plan(
    LAYERS,
    tuple(NETWORKS[index] for index in CALIBRATION),
    tuple(network for index, network in enumerate(NETWORKS) if index not in CALIBRATION + CERTIFICATE),
    tuple(NETWORKS[index] for index in CERTIFICATE),
    NETWORKS[5],
)
SUBJECTS: list[tuple[Subject, Precision]] = [(each, "int8") for each in (*LAYERS, *NETWORKS, EMPTY)]
SUBJECTS.append((REFERENCE, "float32"))


def file_name(subject: Subject, precision: str) -> str:
    """Of its file in the archive."""
    return f"{files.sha256(f'{subject} {precision}'.encode())[:16]}.tflite"


class MadePool:
    """In the place of `ConversionPool`: the files come from the archive."""

    busy_s = 0.0

    def __init__(self, folder: Path, precision: Precision) -> None:
        self._folder, self._precision = folder, precision

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def path(self, subject: Subject) -> Path:
        name = file_name(subject, self._precision)
        path = self._folder / name
        if not path.exists():
            with zipfile.ZipFile(ARCHIVE) as archive:
                files.write_atomically(path, archive.read(name))
        return path

    def submit(self, subjects: Sequence[Subject]) -> list[tuple[Path, "Future[None] | None"]]:
        return [(self.path(subject), None) for subject in subjects]


def convert(subject: Subject, precision: Precision) -> bytes:
    """The file of a subject, converted now."""
    from edgenas.model.convert import convert_layer, convert_network

    return convert_layer(subject, precision) if isinstance(subject, Layer) else convert_network(subject, precision)


if __name__ == "__main__":
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", KERAS_BACKEND="tensorflow")
    with zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, precision in SUBJECTS:
            entry = zipfile.ZipInfo(file_name(each, precision))  # without the time of day
            archive.writestr(entry, convert(each, precision), zipfile.ZIP_DEFLATED, 9)
    print(f"{len(SUBJECTS)} files, {ARCHIVE.stat().st_size} bytes")
