"""`Bundle`: a trained network as a folder, with all that is needed to check it wherever it goes."""

import contextlib
import dataclasses
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import edgenas.files as files
from edgenas.architecture import Architecture
from edgenas.deploy.keys import SigningKey
from edgenas.deploy.manifest import FILE, Manifest, new_release, read_manifest, write_manifest
from edgenas.deploy.manifest import LARGEST_BYTES as SMALL_BYTES
from edgenas.deploy.samples import Pieces, Samples, copy_in_pieces, read_samples
from edgenas.deploy.verification import refuse_mislabelled
from edgenas.device.agent.signatures import SIGNATURE
from edgenas.errors import CheckFailedError, EdgeNASError, InputError, reading

MODEL, LABELS, SAMPLES = "model.tflite", "labels.txt", "samples.npz"
FLOAT_MODEL = "model_float32.tflite"  # beside an int8 model, for devices where that is the slower one
SUFFIX = ".edgenas"  # of a bundle as one file: a zip of PACKED, nothing compressed
PACKED = (FILE, SIGNATURE, MODEL, FLOAT_MODEL, LABELS, SAMPLES)
LARGEST_BYTES = 1 << 30  # that a packed bundle may unpack to
_SMALL = {FILE, SIGNATURE, LABELS}  # its texts, which are read whole
UNPACKED = Path(".edgenas") / "bundles"
_AGAIN = "Train the bundle again."


@dataclass(frozen=True)
class Bundle:
    """A folder with `model.tflite`, `labels.txt`, `samples.npz` (unless the data are private), `manifest.json`, and
    `manifest.sig` where it is signed. Beside an int8 or mixed model the same network may be there as
    `model_float32.tflite`.

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

    def model_of(self, precision: str) -> Path:
        """The file of a precision.

        Raises:
            InputError: it is not in the bundle.
        """
        if precision == self.manifest.precision:
            return self.model_path
        if precision == "float32" and FLOAT_MODEL in self.manifest.files:
            return self.folder / FLOAT_MODEL
        raise InputError(
            f"The bundle {self.folder} has no {precision} model, only {' and '.join(self.precisions)}. "
            "`edgenas train --with-float32` puts a float32 one beside the int8 one."
        )

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those it has, the one it was made for first."""
        return (self.manifest.precision, *(["float32"] if FLOAT_MODEL in self.manifest.files else []))

    def samples_of(self, precision: str) -> Samples | None:
        """The samples with the outputs of that precision's file."""
        samples = self.samples
        if samples is None or precision == self.manifest.precision:
            return samples
        if samples.float_outputs is None:
            return None
        return dataclasses.replace(samples, outputs=samples.float_outputs)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the outputs.

        Raises:
            InputError: they are no text in UTF-8.
        """
        path = self.folder / LABELS
        with reading(f"The labels {path}", _AGAIN):
            return tuple(files.read_small(path, SMALL_BYTES).decode().split("\n")[:-1])

    @cached_property
    def samples(self) -> Samples | None:
        """The acceptance samples; None where they were left out.

        Raises:
            InputError: they are not what the manifest says.
        """
        if SAMPLES not in self.manifest.files:
            return None
        path = self.folder / SAMPLES
        with reading(f"The samples {path}", _AGAIN):
            return read_samples(path, self.manifest)

    @cached_property
    def architecture(self) -> Architecture:
        """The network."""
        return Architecture.parse(self.manifest.architecture.notation)

    @cached_property
    def signed_by(self) -> str | None:
        """The id of the key that its signature names (which is checked where it is deployed); None: not signed."""
        path = self.folder / SIGNATURE
        with reading(f"The signature {path}", "Sign it again: edgenas sign."):
            if not os.path.lexists(path):
                return None
            return str(files.parse_json(files.read_small(path, SMALL_BYTES))["key"])[:16]

    @classmethod
    def load(cls, path: Path) -> "Bundle":
        """The bundle in a folder or a `.edgenas` file, every file of it checked.

        Raises:
            InputError: no bundle, or one that cannot be read.
            CheckFailedError: a file that is not the one that was written, or not what the manifest says.
        """
        if path.is_file():
            return _load_packed(path)
        manifest = read_manifest(path / FILE)
        if not {MODEL, LABELS} <= set(manifest.files) <= {MODEL, LABELS, SAMPLES, FLOAT_MODEL}:
            raise InputError(
                f"{path / FILE}: expected the files {MODEL}, {LABELS} and perhaps {SAMPLES} and {FLOAT_MODEL}, "
                f"received {', '.join(sorted(manifest.files)) or 'none'}."
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
        bundle.signed_by  # noqa: B018  raises where it cannot be read: that is not the same as no signature
        for precision in bundle.precisions:
            refuse_mislabelled(bundle.model_of(precision), precision, bundle.architecture, len(bundle.labels))
        return bundle

    @classmethod
    def write(
        cls,
        folder: Path,
        manifest: Manifest,
        model: bytes,
        labels: Sequence[str],
        samples: Samples | None,
        key: SigningKey | None = None,
        float_model: bytes | None = None,
    ) -> "Bundle":
        """Write a bundle, whole or not at all. The manifest's hashes and size are filled in here.

        Args:
            float_model: the float32 file beside an int8 one.
            key: signs it; None: it stays unsigned, and devices that trust a key refuse it.

        Raises:
            InputError: there is something at `folder` already.
        """
        refuse_existing(folder)
        with files.whole_folder(folder) as beside:
            (beside / MODEL).write_bytes(model)
            if float_model is not None:
                (beside / FLOAT_MODEL).write_bytes(float_model)
            (beside / LABELS).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
            if samples is not None:
                samples.write(beside / SAMPLES)
            hashes = {path.name: files.sha256(path) for path in sorted(beside.iterdir())}
            write_manifest(beside / FILE, dataclasses.replace(manifest, files=hashes, model_bytes=len(model)))
            if key is not None:
                (beside / SIGNATURE).write_bytes(key.sign((beside / FILE).read_bytes()))
        return cls.load(folder)

    def sign(self, key: SigningKey | None, after: int = 0) -> "Bundle":
        """Give it a new release number above `after`, and sign it; unsigned without a key.

        Cut in the middle, it is a bundle without a signature: the same call makes up for it.
        """
        manifest = dataclasses.replace(self.manifest, release=new_release(max(self.manifest.release, after)))
        (self.folder / SIGNATURE).unlink(missing_ok=True)
        write_manifest(self.folder / FILE, manifest)
        if key is not None:
            files.write_atomically(self.folder / SIGNATURE, key.sign((self.folder / FILE).read_bytes()))
        return Bundle.load(self.folder)

    def pack(self, path: Path) -> Path:
        """Write it as one file, whole or not at all; the same bundle gives the same bytes.

        Raises:
            InputError: the name does not end in `.edgenas`.
        """
        if path.suffix != SUFFIX:
            raise InputError(f"A packed bundle is called NAME{SUFFIX}, received {path.name!r}.")
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for name in PACKED:
                if (self.folder / name).is_file():
                    archive.writestr(zipfile.ZipInfo(name), (self.folder / name).read_bytes())
        files.write_atomically(path, content.getvalue())
        return path


def _load_packed(path: Path) -> Bundle:
    """The bundle in a packed file, unpacked once; and again where the copy was damaged meanwhile."""
    folder = UNPACKED / files.sha256(path)[:32]
    if folder.is_dir():
        try:
            return Bundle.load(folder)
        except EdgeNASError:
            shutil.rmtree(folder, ignore_errors=True)
    try:
        unpack(path, folder)
    except InputError:
        if not folder.is_dir():
            raise  # else another process has unpacked the same file first
    return Bundle.load(folder)


def refuse_existing(folder: Path) -> None:
    """Raise `InputError` where a bundle would overwrite something."""
    if folder.exists():
        raise InputError(f"There is already something at {folder}, and a bundle is never overwritten: remove it first.")


def unpack(path: Path, folder: Path) -> Path:
    """Write what is in a packed bundle into a new folder, whole or not at all.

    Raises:
        InputError: it is no bundle, or there is something at `folder`.
    """
    refuse_existing(folder)
    with contextlib.ExitStack() as opened:
        with reading(f"The bundle {path}", missing=f"There is no bundle {path}."):
            archive = opened.enter_context(zipfile.ZipFile(opened.enter_context(Pieces(path))))
            found = _members(archive, path)
        beside = opened.enter_context(files.whole_folder(folder))
        for name, info in found.items():
            with reading(f"The bundle {path}"), archive.open(info) as content:
                copy_in_pieces(content, beside / name, info.file_size)
    return folder


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The files of a packed bundle by name, none of which has been read.

    Raises:
        InputError: they are not those of a bundle, or larger.
    """
    found = {info.filename: info for info in archive.infolist()}
    if len(found) != len(archive.infolist()) or not found.keys() <= set(PACKED):
        raise InputError(f"{path} is no bundle: it holds {', '.join(sorted(found))[:200]!r}.")
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in found.values()):
        raise InputError(f"{path} is no bundle: it is compressed in a way that no bundle is.")
    if sum(info.file_size for info in found.values()) > LARGEST_BYTES:
        raise InputError(f"{path} unpacks to more than {LARGEST_BYTES >> 20} MB: that is no bundle.")
    for name in _SMALL & found.keys():
        if found[name].file_size > SMALL_BYTES:
            raise InputError(f"{path} is no bundle: its {name} is larger than {SMALL_BYTES >> 20} MB.")
    return found


def sign(path: Path, key: SigningKey | None, after: int = 0) -> Bundle:
    """Sign a bundle, a folder or a `.edgenas` file, in place; the packed file beside a folder follows it.

    Args:
        key: None: it gets its new number alone, and is not signed.
        after: a release that a device has had; the new number is above it.

    Raises:
        InputError: no bundle.
        CheckFailedError: a file of it is not the one that was written.
    """
    if path.is_file():
        with tempfile.TemporaryDirectory() as folder:
            Bundle.load(unpack(path, Path(folder) / "bundle")).sign(key, after).pack(path)
        return Bundle.load(path)
    bundle = Bundle.load(path).sign(key, after)
    packed = path.with_name(path.name + SUFFIX)
    if packed.is_file():
        bundle.pack(packed)
    return bundle
