"""What a trained network makes of the test images, kept beside its bundle: mistakes can be looked at, on this host."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgenas.files as files
from edgenas.errors import reading


@dataclass(frozen=True, eq=False)
class Answers:
    """Raw outputs of a bundle's model on the test split.

    Attributes:
        images: int64 [n], into the study's data set.
        outputs: [n, classes], as the `.tflite` file gives them (float32 or uint8).
    """

    images: npt.NDArray[np.int64]
    outputs: npt.NDArray[Any]

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        content = io.BytesIO()
        np.savez(content, images=self.images, outputs=self.outputs)
        files.write_atomically(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Answers":
        """Read it.

        Raises:
            InputError: it is not there, or not whole.
        """
        with reading(f"The file {path}"), np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["images"], arrays["outputs"])


def answers_path(bundle: Path) -> Path:
    """Where they lie for a bundle's folder: beside it, for what is in it travels."""
    return bundle.with_name(f"{bundle.name}.answers.npz")
