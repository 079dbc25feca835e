"""What ends a command: a sentence and an exit code for whatever was raised."""

import errno
import select

import click

from edgenas.errors import EdgeNASError, cut, no_text, shown

DONE, FAULT, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_LONGEST = 4000  # characters of a line: what a device or a file said may be endless

_ELSEWHERE = "Go to a folder that you may write in, or change its permissions."
_OCCUPIED = "Something else has that name: remove it, or take another one."
_ROOM = "Free some space (`edgenas doctor` says how much there is); the same command goes on where it was."
_HANDLES = "Too many files are open: close other programs, or raise the limit (ulimit -n 4096)."
# What a file system refuses, and what the user can do about it.
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.ENAMETOOLONG: "Give it a shorter name.",
    errno.EISDIR: _OCCUPIED,
    errno.ENOTDIR: _OCCUPIED,
    errno.EEXIST: _OCCUPIED,
    errno.ENOTEMPTY: _OCCUPIED,
    errno.EBUSY: _OCCUPIED,
    errno.ELOOP: "Its links lead in a circle: remove one.",
    errno.ENOENT: "Is it there, and are you in the right folder?",
    errno.ESTALE: "Is it there, and are you in the right folder?",
    errno.EIO: "The disk or the link to it fails.",
    errno.EMFILE: _HANDLES,
    errno.ENFILE: _HANDLES,
    errno.ENOMEM: "Close other programs, or take less at once.",
}


def ending(error: BaseException) -> tuple[str, int]:
    """What to say of an error, on one line, and the command's exit code; "" where nothing is left to say."""
    if isinstance(error, click.UsageError) and error.ctx and error.format_message() == error.ctx.get_help():
        return error.format_message(), BAD_INPUT  # a group without a command: its help
    text, code = _ending(error.__cause__ if isinstance(error, ShieldedError) and error.__cause__ else error)
    return text and "edgenas: " + " ".join(map(str.strip, cut(text, _LONGEST).splitlines())), code


class ShieldedError(Exception):
    """Keeps, as its cause, an exception that click would take for something else."""


class Commands(click.Group):
    """Commands whose errors reach `ending`."""

    def invoke(self, context: click.Context) -> object:
        """Run the command. click makes an exit of any pipe that broke, and an interruption of a file that ended."""
        try:
            return super().invoke(context)
        except (BrokenPipeError, EOFError) as error:
            raise ShieldedError from error


def _ending(error: BaseException) -> tuple[str, int]:
    if isinstance(error, EdgeNASError):
        return str(error), error.exit_code
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        return error.format_message() + (f" See: {context.command_path} --help" if context else ""), BAD_INPUT
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "Interrupted. The same command goes on where it was.", INTERRUPTED
    if isinstance(error, BrokenPipeError | SystemExit) and _nobody_reads():
        return "", DONE  # whoever read our output has seen enough
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return f"{_place(error)}: {error.strerror}. {_REMEDIES[error.errno]}", BAD_INPUT
    if isinstance(error, MemoryError):
        return f"This machine has no memory left for that. {_REMEDIES[errno.ENOMEM]}", BAD_INPUT
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return str(no_text(error)), BAD_INPUT
    if isinstance(error, SystemExit):  # click's own, which has said why
        return "", error.code if isinstance(error.code, int) else FAULT
    said = f"{type(error).__name__}: {error}"
    return f"A fault of EdgeNAS itself: {said}. EDGENAS_DEBUG=1 shows where.", FAULT


def _place(error: OSError) -> str:
    """Where a file system refused."""
    if error.filename is not None:
        return shown(error.filename).strip("'")
    return "The folder that you are in" if error.errno in (errno.ENOENT, errno.ESTALE) else "This machine"


def _nobody_reads() -> bool:
    """Whether the reader of our own output is gone, and not that of another pipe, which would be a fault."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)  # errors are told unasked
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
