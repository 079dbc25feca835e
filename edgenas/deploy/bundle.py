"""`Bundle`: a trained network as a folder, with all that is needed to check it wherever it goes."""

import dataclasses
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgenas.files as files
from edgenas.architecture import Architecture
from edgenas.deploy.manifest import FILE, Manifest, read_manifest, write_manifest
from edgenas.errors import CheckFailedError, InputError

MODEL, LABELS, SAMPLES = "model.tflite", "labels.txt", "samples.npz"


@dataclass(frozen=True, eq=False)
class Samples:
    """Acceptance images and what the host made of them.

    Attributes:
        images: uint8 [n, height, width, channels], raw pixels.
        labels: int64 [n], the true classes.
        outputs: [n, classes], the raw outputs of `model.tflite` on the host (float32 or uint8).
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    outputs: npt.NDArray[Any]


@dataclass(frozen=True)
class Bundle:
    """A folder with `model.tflite`, `labels.txt`, `samples.npz` (unless the data are private) and `manifest.json`.

    Attributes:
        folder: where it is.
        manifest: what it says of itself.
    """

    folder: Path
    manifest: Manifest

    @property
    def model_path(self) -> Path:
        """Its `.tflite` file."""
        return self.folder / MODEL

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the outputs."""
        return tuple((self.folder / LABELS).read_text(encoding="utf-8").splitlines())

    @cached_property
    def samples(self) -> Samples | None:
        """The acceptance samples; None where they were left out.

        Raises:
            InputError: they are not what the manifest says.
        """
        if SAMPLES not in self.manifest.files:
            return None
        path = self.folder / SAMPLES
        try:
            with np.load(path, allow_pickle=False) as arrays:
                found = Samples(arrays["images"], arrays["labels"], arrays["outputs"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"The samples {path} cannot be read: {error}. Train the bundle again.") from None
        count, shape = len(found.labels), self.manifest.preprocessing.input_shape
        expected = (count, *shape), (count, self.manifest.architecture.classes)
        if count == 0 or (found.images.shape, found.outputs.shape) != expected:
            raise InputError(
                f"The samples {path} do not fit the model: expected images and outputs of {expected}, received "
                f"{found.images.shape} and {found.outputs.shape}. Train the bundle again."
            )
        return found

    @cached_property
    def architecture(self) -> Architecture:
        """The network."""
        return Architecture.parse(self.manifest.architecture.notation)

    @classmethod
    def load(cls, path: Path) -> "Bundle":
        """The bundle in a folder, every file of it checked.

        Raises:
            InputError: no bundle, or one that cannot be read.
            CheckFailedError: a file that is not the one that was written.
        """
        manifest = read_manifest(path / FILE)
        if not {MODEL, LABELS} <= set(manifest.files) <= {MODEL, LABELS, SAMPLES}:
            raise InputError(
                f"{path / FILE}: expected the files {MODEL}, {LABELS} and perhaps {SAMPLES}, received "
                f"{', '.join(sorted(manifest.files)) or 'none'}."
            )
        for name, expected in manifest.files.items():
            if not (path / name).is_file():
                raise CheckFailedError(f"The bundle {path} is not whole: {name} is missing. Train it again.")
            received = files.sha256(path / name)
            if received != expected:
                raise CheckFailedError(
                    f"{path / name} is not the file that was written: expected sha256 {expected}, received {received}. "
                    "Train the bundle again."
                )
        bundle = cls(path, manifest)
        if len(bundle.labels) != manifest.architecture.classes:
            raise InputError(
                f"{path / LABELS} names {len(bundle.labels)} classes, the model has {manifest.architecture.classes}."
            )
        return bundle

    @classmethod
    def write(
        cls, folder: Path, manifest: Manifest, model: bytes, labels: Sequence[str], samples: Samples | None
    ) -> "Bundle":
        """Write a bundle, whole or not at all. The manifest's hashes are filled in here.

        Raises:
            InputError: there is something at `folder` already.
        """
        refuse_existing(folder)
        with files.whole_folder(folder) as beside:
            (beside / MODEL).write_bytes(model)
            (beside / LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
            if samples is not None:
                np.savez_compressed(
                    beside / SAMPLES, images=samples.images, labels=samples.labels, outputs=samples.outputs
                )
            hashes = {path.name: files.sha256(path) for path in sorted(beside.iterdir())}
            write_manifest(beside / FILE, dataclasses.replace(manifest, files=hashes))
        return cls.load(folder)


def refuse_existing(folder: Path) -> None:
    """Raise `InputError` where a bundle would overwrite something."""
    if folder.exists():
        raise InputError(f"There is already something at {folder}, and a bundle is never overwritten: remove it first.")
