"""A bundle in the form that other tools take: assets of an Android project, or C++ source for TensorFlow Lite Micro."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import edgenas.files as files
from edgenas.deploy.bundle import LABELS, MODEL, Bundle
from edgenas.deploy.c_array import c_array
from edgenas.deploy.manifest import FILE
from edgenas.errors import CheckFailedError, InputError, near
from edgenas.evaluation.data.images import check_policy
from edgenas.model.metadata import Metadata, read_metadata

Format = Literal["android", "c-array"]
ASSETS = Path("assets", "edgenas")  # below the folder, and below an app's src/main


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        format: "android" or "c-array".
        name: of the model there.
        files: SHA-256 by path below `folder`.
        metadata: what the model says of itself to other tools; None where it was made without.
        arena_bytes, arena_predicted_bytes: for c-array, what TensorFlow Lite Micro is given and what is predicted.
        operators: for c-array, what its resolver must know.
    """

    folder: Path
    format: Format
    name: str
    files: dict[str, str]
    metadata: Metadata | None
    arena_bytes: int | None = None
    arena_predicted_bytes: int | None = None
    operators: tuple[str, ...] = ()


def export(bundle: Bundle, form: str, folder: Path, name: str | None = None) -> Exported:
    """Write a bundle's model for another tool, whole or not at all.

    Args:
        bundle: what to export.
        form: "android" or "c-array".
        folder: of the files; it must not exist.
        name: of the model there; the study's by default.

    Raises:
        InputError: an unknown form, a name that cannot be used, something at `folder` already, or a folder that cannot
            be written.
        CheckFailedError: the labels in the model are not the bundle's.
    """
    known: tuple[Format, ...] = get_args(Format)
    chosen = next((each for each in known if each == form), None)
    if chosen is None:
        raise InputError(f"Expected a format to export, received {form!r}. {near(form, known)}")
    name = files.check_name("model", bundle.manifest.study.name if name is None else name)
    if os.path.lexists(folder):
        raise InputError(f"There is already something at {folder}, and an export overwrites nothing: remove it first.")
    metadata = _metadata(bundle)
    source = c_array(bundle, name) if chosen == "c-array" else None
    try:
        with files.whole_folder(folder) as beside:
            if source is None:
                _write_android(bundle, beside, name, metadata)
            else:
                for file, text in source.files.items():
                    (beside / file).write_text(text, encoding="ascii")
            written = {
                path.relative_to(beside).as_posix(): files.sha256(path)
                for path in sorted(beside.rglob("*"))
                if path.is_file()
            }
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be written: {error}.") from None
    if source is None:
        return Exported(folder, chosen, name, written, metadata)
    arena = source.arena_bytes, source.arena_predicted_bytes
    return Exported(folder, chosen, source.identifier, written, metadata, *arena, source.operators)


def _metadata(bundle: Bundle) -> Metadata | None:
    metadata = read_metadata(bundle.model_path.read_bytes())
    if metadata is not None and metadata.labels != bundle.labels:
        raise CheckFailedError(
            f"The labels in {bundle.model_path} are not those of {LABELS}: expected {list(bundle.labels)}, received "
            f"{list(metadata.labels)}. Train the bundle again."
        )
    return metadata


def _write_android(bundle: Bundle, beside: Path, name: str, metadata: Metadata | None) -> None:
    """The folder `assets`, and beside it, so that no app carries it, a README."""
    assets = beside / ASSETS / name
    assets.mkdir(parents=True)
    for file in (MODEL, LABELS, FILE):
        (assets / file).write_bytes((bundle.folder / file).read_bytes())
    (beside / "README.md").write_text(_readme(bundle, name, metadata), encoding="utf-8")


def _readme(bundle: Bundle, name: str, metadata: Metadata | None) -> str:
    preprocessing = bundle.manifest.preprocessing
    height, width, channels = preprocessing.input_shape
    policy = check_policy(preprocessing.policy)
    pixels = "one float32 a channel" if bundle.manifest.precision == "float32" else "one byte a channel"
    colour = "red, green, blue" if channels == 3 else "grey, 0.299 R + 0.587 G + 0.114 B"
    told = "" if metadata is None else "The model carries TFLite metadata, so Android's own tools know all this too. "
    return f"""# {name}: assets for an Android app

Copy `assets` into the app's `src/main/`. `assets/edgenas/{name}/` holds `{MODEL}`, `{LABELS}` and `{FILE}`, whose
`files` has the SHA-256 of both: an app that checks them notices a file that is damaged, not one that somebody changed
together with its hash.

- Input: {height} rows of {width} pixels, {pixels}, 0-255 as they are, {colour}. Normalisation is inside the model.
- An image of another size is brought to this one by `{policy}`: `fit` stretches; `crop` scales until it covers the
  input and cuts the centre out; `pad` scales until it fits inside, centred on black.
- Output: {len(bundle.labels)} values, in the order of `{LABELS}`; the largest is the answer.

{told}EdgeNAS' `examples/android/` has a Kotlin class that loads them.
"""
