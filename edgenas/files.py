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
import tempfile
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from edgenas.errors import InputError, near

T = TypeVar("T")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_name(kind: str, name: str) -> str:
    """`name` if it is safe as a file name everywhere.

    Raises:
        InputError: it is anything else.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is no name for a {kind}: use up to 63 letters, digits, '.', '_' and '-', "
            "beginning with a letter or a digit."
        )
    return name


def write_atomically(path: Path, content: bytes | str) -> None:
    """Put `content` at `path` so that a reader sees all of the old or all of the new, whatever happens."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
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
    sync_folder(path.parent)


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
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no {kind} file {path}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"The {kind} file {path} cannot be read: {error}.") from None


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
        raise InputError(f"{where}: expected a table, received {mapping!r}.")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls)) if field.init}
    for key in mapping:
        if key not in fields:
            raise InputError(f"{where}: unknown key {key!r}. {near(str(key), fields)}")
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
            raise InputError(f"{where}: expected one of {list(arguments)}, received {value!r}.")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: expected a list, received {value!r}.")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_typed(arguments[0], item, where) for item in value)
        if len(arguments) != len(value):
            raise InputError(f"{where}: expected {len(arguments)} values, received {value!r}.")
        return tuple(_typed(kind, item, where) for kind, item in zip(arguments, value, strict=True))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected a table, received {value!r}.")
        return {str(key): _typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any:
        return value
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise InputError(f"{where}: expected {hint.__name__}, received {value!r}.")
    if hint is float and not math.isfinite(value):
        raise InputError(f"{where}: expected a finite number, received {value!r}.")
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
    """A folder to fill beside `target`, which takes the name only when the block ends without an error."""
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
        beside.rename(target)
        sync_folder(target.parent)
