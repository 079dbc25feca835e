"""Files that are whole or absent: atomic writing, checksums, strict TOML, and where a project's files are.

After `kill -9` at any point a reader finds the old content or the new, never a part (write beside, fsync, rename).
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import stat
import tempfile
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from edgenas.errors import InputError, near, no_text, reading, shown

T = TypeVar("T")
_LARGEST_TOML_BYTES = 32 << 10  # of a device or a study, of 2 kB; tomllib takes seconds for 100 kB of dots
_LARGEST_WHOLE = 2**63 - 1  # TOML has no larger ones; nor has NumPy
_TEXT = re.compile(r"[^\0\ud800-\udfff]*")  # what can be part of a path and be written
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_name(kind: str, name: str) -> str:
    """`name` if it is safe as a file name everywhere.

    Raises:
        InputError: it is anything else.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{shown(name)} is no name for a {kind}: use up to 63 letters, digits, '.', '_' and '-', "
            "beginning with a letter or a digit."
        )
    return name


def write_atomically(path: Path, content: bytes | str) -> None:
    """Put `content` at `path` so that a reader sees all of the old or all of the new, whatever happens.

    Raises:
        InputError: a text with halves of characters, as names of files have them that are no UTF-8; or `path` is a
            folder, a device or a pipe.
        OSError: the machine's file system refuses.
    """
    try:
        data = content.encode() if isinstance(content, str) else content
    except UnicodeEncodeError as error:
        raise no_text(error) from error
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file, and is not replaced by one. Name another.")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _replace(path, data)
        sync_folder(path.parent)
    except OSError as error:
        error.filename = str(path)  # and not of the file beside it
        raise


def _replace(path: Path, data: bytes) -> None:
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(0o644)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def read_small(path: Path, most_bytes: int) -> bytes:
    """The content of a file that is small: of one that is not, no more is read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, or no file (a FIFO would be waited for).
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no file")
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes >> 10} kB")
    return content


def user_path(text: str) -> Path:
    """A path that a user gave, or a file of the user's: `~` is the home.

    Raises:
        InputError: nobody of that name has a home here.
    """
    with reading(f"The path {shown(text)}", "Write it without ~."):
        return Path(text).expanduser()


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(content: bytes | Path) -> str:
    """Hex SHA-256 of bytes or of a file (read in pieces)."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_json(text: str | bytes) -> Any:
    """What a JSON text of somebody else's holds. Numbers are finite: Python alone reads NaN, and fails on it later.

    Raises:
        ValueError: no JSON, a number that is none, or one too large for a float, or too many levels.
    """

    def reading(kind: Callable[[str], Any]) -> Callable[[str], Any]:
        def read(digits: str) -> Any:
            if not math.isfinite(float(digits)):
                raise ValueError(f"{digits[:40]!r} is no finite number")
            return kind(digits)

        return read

    try:
        return json.loads(text, parse_int=reading(int), parse_float=reading(float), parse_constant=reading(float))
    except RecursionError:
        raise ValueError("it has too many levels") from None


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        InputError: missing, unreadable, or no TOML.
    """
    with reading(f"The {kind} file {path}", missing=f"There is no {kind} file {path}."):
        return tomllib.loads(read_small(path, _LARGEST_TOML_BYTES).decode())


def write_toml(path: Path, value: Mapping[str, Any]) -> None:
    """Write a TOML file atomically; keys whose value is None are left out."""
    write_atomically(path, tomli_w.dumps(_without_none(value)))


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value


def as_mapping(value: Any) -> dict[str, Any]:
    """A dataclass as plain data, tuples as lists, ready for TOML or JSON."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(value))))


def from_mapping(cls: type[T], mapping: Any, where: str) -> T:
    """Build a dataclass from what a file held: strict about names and types.

    Args:
        cls: a dataclass; its annotations are the schema (nested dataclasses, tuples, `X | None`).
        mapping: what `tomllib` or `json` gave.
        where: named in errors, such as the file's path.

    Raises:
        InputError: an unknown key (the near one is offered), a missing one, or a value of another type.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{where}: expected a table, received {shown(mapping)}.")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls)) if field.init}
    for key in mapping:
        if key not in fields:
            raise InputError(f"{where}: unknown key {shown(key)}. {near(str(key), fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _typed(hints[name], mapping[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}: the key {name!r} is missing.")
    return cls(**values)


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        rest = [argument for argument in arguments if argument is not type(None)]
        return _typed(rest[0], value, where)
    if dataclasses.is_dataclass(hint):
        return from_mapping(typing.cast(type, hint), value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise InputError(f"{where}: expected one of {list(arguments)}, received {shown(value)}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: expected a list, received {shown(value)}.")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_typed(arguments[0], item, where) for item in value)
        if len(arguments) != len(value):
            raise InputError(f"{where}: expected {len(arguments)} values, received {shown(value)}.")
        return tuple(_typed(kind, item, where) for kind, item in zip(arguments, value, strict=True))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected a table, received {shown(value)}.")
        return {str(key): _typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    whole = isinstance(value, int) and not isinstance(value, bool)
    if hint is float and whole and abs(value) <= _LARGEST_WHOLE:
        return float(value)
    if hint is Any:
        return value
    if not (isinstance(value, hint) and (hint is not int or whole)):
        raise InputError(f"{where}: expected {hint.__name__}, received {shown(value)}.")
    if hint is int and abs(value) > _LARGEST_WHOLE:
        raise InputError(f"{where}: expected a number of at most 64 bits, received {shown(value)}.")
    if hint is str and not _TEXT.fullmatch(value):
        raise InputError(f"{where}: expected a text in UTF-8 without NUL, received {shown(value)}.")
    if hint is float and not math.isfinite(value):
        raise InputError(f"{where}: expected a finite number, received {shown(value)}.")
    return value


def find_shipped(kind: str, name: str, suffix: str) -> Path | None:
    """The file of a device or a latency table: the user's own folder first, then what came with the package.

    Args:
        kind: "devices" or "latency_tables".
        name: without its suffix.
    """
    for folder in shipped_folders(kind):
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    return None


def shipped_folders(kind: str) -> Iterator[Path]:
    """Where files of a kind may lie, the user's project folder (the current one) first."""
    package = Path(__file__).parent
    seen: set[Path] = set()
    # In a wheel the folders lie inside the package, in a checkout beside it.
    for folder in (Path(kind), package / "_shipped" / kind, package.parent / kind):
        if folder.is_dir() and folder.resolve() not in seen:
            seen.add(folder.resolve())
            yield folder


@contextlib.contextmanager
def whole_folder(target: Path, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A folder to fill beside `target`, which takes the name only when the block ends without an error.

    Raises:
        InputError: there is something of that name.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".part") as name:
        beside = Path(name) / "content"
        beside.mkdir()
        yield beside
        if check is not None:
            check(beside)
        for path in beside.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
        sync_folder(beside)
        try:
            beside.rename(target)
        except OSError as error:
            if os.path.lexists(target):
                raise InputError(f"There is already something at {target}, put there meanwhile.") from error
            raise
        sync_folder(target.parent)
