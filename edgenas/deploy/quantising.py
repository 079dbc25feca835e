"""From a trained network to its files, and the repair of one that int8 harms."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.deploy.gates import MOST_LOSS
from edgenas.deploy.manifest import Repair
from edgenas.evaluation.data import Dataset, Splits, stratified_sample
from edgenas.evaluation.finetuning import fine_tune, fine_tuning_steps
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.training import Indices, OnRound
from edgenas.model import Precision, convert, run_tflite

CALIBRATION = 200  # training images that an int8 conversion sees
_AT_ONCE = 500  # images in memory


@dataclass(frozen=True)
class Files:
    """A trained network as files.

    Attributes:
        model: the Keras model whose weights they hold.
        float32: its float32 file.
        content: the file to deploy: that one, or its int8 one.
        reference: the float32 file of the network as it was trained; what int8 costs is counted from there.
        repair: what was done to `model` for int8's sake.
    """

    model: Any
    float32: bytes
    content: bytes
    reference: bytes
    repair: Repair


@dataclass(frozen=True)
class Material:
    """What an int8 file is made from, and what a repair may use.

    Attributes:
        dataset, splits: it trains on train and validation and chooses on `Splits.choosing`.
        recipe, seed: of the training before.
        float_layers: numbers of the network's layers that stay in float32.
        checkpoint: a folder to go on from after a break.
    """

    dataset: Dataset
    splits: Splits
    recipe: Recipe
    seed: int
    float_layers: tuple[int, ...] = ()
    checkpoint: Path | None = None

    def int8(self, model: Any) -> bytes:
        """The int8 file of a trained network."""
        return convert(model, "int8", self.calibration, self.float_layers)

    @property
    def train_on(self) -> Indices:
        """Train and validation."""
        return np.sort(np.concatenate([self.splits.train, self.splits.validation]))

    @property
    def calibration(self) -> npt.NDArray[np.float32]:
        """[n, height, width, channels] a stratified sample of the training images."""
        chosen = stratified_sample(self.dataset.y, self.train_on, CALIBRATION, self.seed)
        return np.asarray(self.dataset.x[chosen], np.float32)


def make_files(model: Any, precision: Precision, material: Material, *, on_round: OnRound | None = None) -> Files:
    """Convert a trained network; where int8 costs it more than a point, fine-tune it first.

    The loss is looked for on the selection images (of small data: on train), and of the two int8 files the one that is
    right more often on them is taken. The acceptance images, which the gates look at afterwards, choose nothing.

    Args:
        model: trained, from `build_model`.
        on_round: called after each round of fine-tuning.
    """
    float32 = convert(model, "float32")
    if precision == "float32":
        return Files(model, float32, float32, float32, Repair())
    plain = Files(model, float32, material.int8(model), float32, Repair())
    dataset, splits = material.dataset, material.splits
    loss = _loss(plain, dataset, splits.choosing)
    if loss <= MOST_LOSS:
        return dataclasses.replace(plain, repair=Repair(loss_before=loss))
    tuned = _fine_tuned(plain, material, on_round)
    after = _loss(tuned, dataset, splits.choosing)
    steps = fine_tuning_steps(material.train_on, material.recipe)
    if after < loss:
        return dataclasses.replace(tuned, repair=Repair("fine-tuned", steps, loss, after))
    return dataclasses.replace(plain, repair=Repair("none", steps, loss, after))


def _fine_tuned(files: Files, material: Material, on_round: OnRound | None) -> Files:
    model = fine_tune(
        files.model,
        material.dataset,
        material.train_on,
        material.calibration,
        material.recipe,
        material.seed,
        checkpoint=material.checkpoint,
        on_round=on_round,
    )
    return dataclasses.replace(files, model=model, float32=convert(model, "float32"), content=material.int8(model))


def _loss(files: Files, dataset: Dataset, images: Indices) -> float:
    """Accuracy of the reference less that of the file to deploy."""
    before, after = (right(content, dataset, images).mean() for content in (files.reference, files.content))
    return float(before - after)


def outputs(content: bytes, dataset: Dataset, images: Indices) -> npt.NDArray[Any]:
    """[n, classes] raw outputs of a file."""
    parts = [images[start : start + _AT_ONCE] for start in range(0, len(images), _AT_ONCE)]
    return np.concatenate([run_tflite(content, dataset.x[part]) for part in parts])


def right(content: bytes, dataset: Dataset, images: Indices) -> npt.NDArray[np.bool_]:
    """[n] whether a file names each image's class."""
    found: npt.NDArray[np.bool_] = outputs(content, dataset, images).argmax(axis=1) == dataset.y[images]
    return found
