"""What the sub-folders of a folder of images are: classes, or splits above those, or the work of some program."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from edgenas.errors import InputError
from edgenas.evaluation.data.dataset import one_name_each

_SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "validate": "validation",
    "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
# A name of a split, alone or as people write it: training_set, seg_train, Test-Images, train2017, trainset.
_SPLIT = re.compile(
    rf"(?P<before>.*[^a-z])?(?P<name>{'|'.join(sorted(_SPLIT_NAMES, key=len, reverse=True))})"
    r"[^a-z]*((set|data|dataset|images?|imgs|split|folder|directory|dir)[^a-z]*)*"
)
# Folders of Synology, QNAP, Windows, macOS, Linux, Android and Python; hidden ones are of some program as well.
_PROGRAMS = re.compile(
    r"\..*|@(eadir|tmp|recycle|recently-snapshot|sharebin|synoresource|__thumb)|#(recycle|snapshot)|\$recycle\.bin|recycler|"
    r"system volume information|found\.\d{3}|__macosx|network trash folder|temporary items|lost\+found|lost\.dir|"
    r"__pycache__|thumbnails",
    re.IGNORECASE,
)
_SHOWN = 5


@dataclass(frozen=True)
class Layout:
    """How a folder of images is read.

    Attributes:
        folders: split -> (folder, class); "train" alone where the folder gives no splits.
        given: whether it gives splits.
        labels: the names of the classes, sorted.
        notes: sentences for the user.
    """

    folders: dict[str, list[tuple[Path, str]]]
    given: bool
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def find_classes(root: Path, source: str) -> Layout:
    """What `root` holds.

    Raises:
        InputError: no classes, splits that do not fit, or names that could be either; it says what to do.
    """
    left_out: list[str] = []
    parts = _split_folders(root, source, left_out)
    folders: dict[str, list[Path]] = {}
    for part, folder in sorted(parts.items()) if parts else [("train", root)]:
        folders[part] = _subfolders(folder, left_out)
        if not folders[part]:
            raise InputError(
                f"{source}: expected one sub-folder a class in {folder}, received none. "
                "Put the images of each class into a folder with its name."
            )
    label_of = one_name_each((path.name for paths in folders.values() for path in paths), source)
    classes = {part: {label_of[path.name] for path in paths} for part, paths in folders.items()}
    for part, names in classes.items():
        if names != classes["train"]:
            odd = sorted(names ^ classes["train"])
            raise InputError(
                f"{source}: expected the same classes in {part} as in train; they differ in {odd[:_SHOWN]}."
            )
    if len(classes["train"]) == 1 and not parts:
        (only, *_) = folders["train"]
        if len(_subfolders(only)) > 1:
            raise InputError(
                f"{source}: expected at least two classes, received only {only.name!r}. Did you mean {only}?"
            )
    return Layout(
        {part: [(path, label_of[path.name]) for path in paths] for part, paths in folders.items()},
        bool(parts),
        tuple(sorted(classes["train"])),
        tuple(_notes(root, parts, folders, label_of, left_out)),
    )


def _notes(
    root: Path, parts: dict[str, Path], folders: dict[str, list[Path]], label_of: dict[str, str], left_out: list[str]
) -> Iterable[str]:
    renamed = [
        f"{path.relative_to(root).as_posix()} as {part}" for part, path in parts.items() if path.name.lower() != part
    ]
    if renamed:
        yield f"Read as splits: {', '.join(renamed)}. Rename the folders if they are classes."
    alike = [label for label in sorted(set(label_of.values())) if split_of(label)]
    if alike and not parts:
        yield f"Read as classes, though called like splits: {', '.join(alike[:_SHOWN])}."
    merged = {
        label_of[path.name]
        for paths in folders.values()
        for path in paths
        if sum(label_of[other.name] == label_of[path.name] for other in paths) > 1
    }
    if merged:
        yield f"Folders with the same name, encoded in two ways, are one class: {', '.join(sorted(merged))}."
    if left_out:
        yield f"Folders of programs or hidden ones, left out: {', '.join(sorted(set(left_out))[:_SHOWN])}."


def split_of(name: str) -> str | None:
    """The split that the name of a folder names; None where it names none."""
    match = _SPLIT.fullmatch(name.lower())
    return _SPLIT_NAMES[match["name"]] if match else None


def is_of_a_program(name: str) -> bool:
    """Whether a folder of this name is some program's, and never a class."""
    return _PROGRAMS.fullmatch(name) is not None


def _split_folders(root: Path, source: str, left_out: list[str]) -> dict[str, Path]:
    """The folders of train, validation and test in `root`; empty where its sub-folders are classes.

    They are splits where all of them are called so. Beside others they are refused where they look like splits: more
    than one is called so, or one that holds folders where the others hold none, or the same. Else they are classes.
    """
    folders = _subfolders(root, left_out)
    found = [(path, part) for path in folders if (part := split_of(path.name))]
    others = [path for path in folders if split_of(path.name) is None]
    if others:
        plain = {part for path, part in found if path.name.lower() in _SPLIT_NAMES}
        above = {part for path, part in found if _subfolders(path)}
        inside = {path.name for split, _ in found for path in _subfolders(split)}
        beside = {path.name for other in others for path in _subfolders(other)}
        if len(plain) > 1 or len(above) > 1 or (len(inside) > 1 and (not beside or inside & beside)):
            raise InputError(
                f"{source}: expected only train, validation and test beside {found[0][0].name!r}, received also "
                f"{others[0].name!r}. Move it out, or rename the folders if they are classes."
            )
        return {}
    parts: dict[str, Path] = {}
    for path, part in found:
        if part in parts:
            raise InputError(
                f"{source}: {parts[part].name!r} and {path.name!r} both name the {part} split. Keep one, "
                "or rename the folders if they are classes."
            )
        below = _subfolders(path)  # seg_train/seg_train/..., as some archives come
        parts[part] = below[0] if len(below) == 1 and split_of(below[0].name) == part else path
    if parts and "train" not in parts:
        raise InputError(f"{source}: expected a folder 'train' beside {sorted(parts)}, received none.")
    return parts


def _subfolders(folder: Path, left_out: list[str] | None = None) -> list[Path]:
    """Those that are not of programs; the names of these are added to `left_out`."""
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        unreadable_folder(error)
    if left_out is not None:
        left_out += [path.name for path in found if is_of_a_program(path.name)]
    return [path for path in found if not is_of_a_program(path.name)]


def unreadable_folder(error: OSError) -> NoReturn:
    """Say that a folder cannot be read."""
    raise InputError(f"The folder {error.filename} cannot be read: {error.strerror}.") from None
