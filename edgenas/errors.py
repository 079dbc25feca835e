"""What can go wrong, as types. Every error a user can meet is an `EdgeNASError` and carries its exit code.

Foreign exceptions (paramiko's, Optuna's, TensorFlow's) stop at the room that owns the library; those of whatever reads
a foreign file at `reading`.
"""

import contextlib
import difflib
import errno
from collections.abc import Iterable, Iterator

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE}
_SHOWN = 300  # characters of foreign text that a message repeats


class EdgeNASError(Exception):
    """Root of all errors raised on purpose. Its text says what was expected, what came, and what to do."""

    exit_code = 2


class InputError(EdgeNASError):
    """Bad input: a file, a name, an argument or a setting that cannot be used."""


class DeviceError(EdgeNASError):
    """The device could not be reached, refused us, or lacks what is needed."""

    exit_code = 3


class UnreachableError(DeviceError):
    """The device is off, or the way to it broke or is too slow: the same command can be tried again when it is back."""


class TooSlowError(DeviceError):
    """The device did not finish in the time it was given."""


class CheckFailedError(EdgeNASError):
    """A check failed: a certificate, a gate, a promise, a hash."""

    exit_code = 4


class WentBackError(CheckFailedError):
    """What was new was live for a moment, did not hold, and what was live before is again."""


@contextlib.contextmanager
def reading(
    what: str, remedy: str = "", *, error: type[EdgeNASError] = InputError, missing: str | None = None
) -> Iterator[None]:
    """The border for what others wrote: whatever a parser raises in the block is one error, which keeps its cause.

    Only the step from bytes to plain values belongs in it: a fault of our own behind it must not look like one of the
    file.

    Args:
        what: is read, such as "The manifest PATH".
        remedy: what to do, a sentence.
        error: of that type.
        missing: said where a file is not there.

    Raises:
        EdgeNASError: of the type `error`; one that was raised on purpose passes as it is.
        OSError: this machine has no room or no file handle left, which is no fault of what is read.
    """
    try:
        yield
    except EdgeNASError:
        raise
    except Exception as cause:
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            raise
        if missing is not None and isinstance(cause, FileNotFoundError):
            raise error(missing) from cause
        raise error(f"{what} cannot be read: {_said(cause)}. {remedy}".rstrip()) from cause


def _said(cause: Exception) -> str:
    """What a foreign exception says, in one line that ends without a full stop."""
    if isinstance(cause, MemoryError):
        return "it takes more memory than there is"
    if isinstance(cause, RecursionError):
        return "it has too many levels"
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause)
    if not text or isinstance(cause, LookupError | TypeError | AttributeError):
        text = f"{type(cause).__name__} {text}"  # "'x'" alone says nothing of a key
    return cut(next(iter(text.strip().splitlines()), "")).rstrip(".")


def cut(text: str, most: int = _SHOWN) -> str:
    """Foreign text that is not endless: at most about so many characters of it."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def shown(value: object) -> str:
    """A foreign value for a message: its `repr`, of which no more is shown than tells what it is."""
    try:
        return cut(repr(value))
    except (ValueError, RecursionError):  # a number of thousands of digits, or thousands of levels
        return f"a {type(value).__name__} that is too large to show"


def no_text(error: UnicodeEncodeError) -> InputError:
    """For a text with halves of characters: nothing of our own has them, but arguments and names of files may."""
    text: str = error.object
    line = text[text.rfind("\n", 0, error.start) + 1 :].partition("\n")[0]
    return InputError(f"{shown(line)} is no text in UTF-8. Give it another name.")


def near(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest known names, or lists them all when none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.6)
    if close:
        return "Did you mean " + " or ".join(repr(item) for item in close) + "?"
    return "Known: " + (", ".join(names) if names else "none yet") + "."


def counted(number: int, what: str) -> str:
    """ "1 model", "2 models"."""
    return f"{number} {what}{'' if number == 1 else 's'}"
