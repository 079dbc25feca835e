"""What can go wrong, as types. Every error a user can meet is an `EdgeNASError` and carries its exit code.

Foreign exceptions (paramiko's, Optuna's, TensorFlow's) stop at the room that owns the library.
"""

import difflib
from collections.abc import Iterable


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
