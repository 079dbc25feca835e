"""What a bundle's model makes of files: scores by class, from the `.tflite` file itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgenas.deploy.bundle import Bundle
from edgenas.errors import InputError
from edgenas.evaluation.data import prepare_image
from edgenas.evaluation.data.images import check_policy
from edgenas.model import class_scores


@dataclass(frozen=True)
class Prediction:
    """What a model makes of one file.

    Attributes:
        file: that was named.
        scores: class -> share of 1, the highest first.
    """

    file: str
    scores: dict[str, float]

    @property
    def label(self) -> str:
        """The class with the highest score."""
        return next(iter(self.scores))


def predict(bundle: Bundle, paths: Sequence[Path], precision: str | None = None) -> list[Prediction]:
    """Scores by class of images of any size and format, brought to the input as in training.

    Args:
        precision: which of the bundle's models; None: the one it was made for.

    Raises:
        InputError: a file is no image that can be read, or the bundle has no model of that precision.
    """
    content = bundle.model_of(precision or bundle.manifest.precision).read_bytes()
    how = bundle.manifest.preprocessing
    images = []
    for path in paths:
        try:
            images.append(prepare_image(path, how.input_shape, check_policy(how.policy)))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    found = []
    for path, row in zip(paths, class_scores(content, np.stack(images)), strict=True):
        order = np.argsort(-row, kind="stable")
        found.append(Prediction(str(path), {bundle.labels[index]: float(row[index]) for index in order}))
    return found
