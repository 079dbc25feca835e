"""Makes what is in this folder: `python -m tests.made.make`. tests/deploy/test_final_training.py makes it again, and
compares."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import edgenas.deploy.training as training
from edgenas.deploy import Bundle, FinalTraining, train_bundle
from edgenas.evaluation.data import Dataset, load_dataset, split
from edgenas.evaluation.recipe import Recipe
from edgenas.ledger import Ledger
from edgenas.model import convert
from tests.made import BUNDLE, FLOAT32, FOLDER, INT8, SMALL, WEIGHTS

RECIPE = Recipe(batch_size=64, learning_rate=0.02, augment="none")
STEPS, SEED = 300, 3


def load_digits(cache: Path) -> Dataset:
    """The images that it is trained on: they come with scikit-learn."""
    return load_dataset("digits", (8, 8, 1), cache=cache)


def final_training(digits: Dataset, root: Path) -> FinalTraining:
    """The training that gives the bundle, below a folder."""
    return FinalTraining(
        architecture=SMALL,
        precision="int8",
        dataset=digits,
        splits=split(digits, 0),
        recipe=RECIPE,
        steps=STEPS,
        seed=SEED,
        study="night",
        candidate=SMALL.id,
        folder=root / "bundles" / "b1",
        checkpoint=root / "checkpoint",
    )


def write_files(model: Any, request: FinalTraining, folder: Path) -> None:
    """The trained network's other files."""
    calibration = training._material(request).calibration
    (folder / INT8.name).write_bytes(convert(model, "int8", calibration))
    (folder / FLOAT32.name).write_bytes(convert(model, "float32"))
    arrays = {f"{number:02}": weight for number, weight in enumerate(model.get_weights())}
    np.savez_compressed(folder / WEIGHTS.name, **arrays)


def make(root: Path) -> tuple[Bundle, Any, FinalTraining]:
    """The bundle below a folder, its network in Keras, and how it came to be."""
    request, models, train = final_training(load_digits(root / "cache"), root), [], training.train

    def kept(*arguments: Any, **more: Any) -> Any:
        model, curve = train(*arguments, **more)
        models.append(model)
        return model, curve

    training.train = kept
    try:
        bundle = train_bundle(request, ledger=Ledger(root / "ledger.jsonl"))
    finally:
        training.train = train
    return bundle, models[-1], request


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root:
        made, model, request = make(Path(root))
        shutil.rmtree(BUNDLE, ignore_errors=True)
        shutil.copytree(made.folder, BUNDLE)
        shutil.copy(training.course_path(made.folder), training.course_path(BUNDLE))
        write_files(model, request, FOLDER)
    for path in sorted(FOLDER.rglob("*")):
        print(f"{path.stat().st_size:8} {path.relative_to(FOLDER)}")
