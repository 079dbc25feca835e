"""What the user's own machine refuses is not called a fault of EdgeNAS, and a fault is never called anything else."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from edgenas.cli.main import cli
from edgenas.errors import InputError
from edgenas.strategy import Settings
from edgenas.strategy.settings import begin
from tests.terminal import Done, Terminal

Ends = Callable[[BaseException], Done]
LONG = "x" * 300
NO_UTF8 = os.fsdecode(b"caf\xe9")
RUN = [sys.executable, "-c", "from edgenas.cli import main; main()"]


@pytest.fixture
def user(tmp_path: Path) -> Terminal:
    return Terminal(tmp_path)


@pytest.fixture
def ends(user: Terminal, monkeypatch: pytest.MonkeyPatch) -> Ends:
    """What a user sees of a command that raises."""

    def types(raised: BaseException) -> Done:
        @click.command("broken")
        def broken() -> None:
            raise raised

        monkeypatch.setitem(cli.commands, "broken", broken)
        return user.types("broken")

    return types


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "This machine: No space left on device. Free some space"),
        (OSError(errno.ENOSPC, "No space left", "a/b"), "a/b: No space left. Free some space (`edgenas doctor` says"),
        (OSError(errno.EDQUOT, "Quota", "a"), "a: Quota. Free some space"),
        (OSError(errno.EROFS, "Read-only", "/x"), "/x: Read-only. Go to a folder that you may write in"),
        (PermissionError(errno.EACCES, "Denied", b"/x"), "b'/x: Denied. Go to a folder that you may write in"),
        (FileExistsError(errno.EEXIST, "File exists", "devices"), "devices: File exists. Something else has that name"),
        (OSError(errno.ELOOP, "Too many levels", "x"), "x: Too many levels. Its links lead in a circle"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "The folder that you are in: No such file. Is it there"),
        (OSError(errno.EMFILE, "Too many open files"), "This machine: Too many open files. Too many files are open"),
        (OSError(errno.EIO, "Input/output error", "x"), "x: Input/output error. The disk or the link to it fails."),
        (MemoryError(), "This machine has no memory left for that. Close other programs"),
        (
            UnicodeEncodeError("utf-8", NO_UTF8, 3, 4, "surrogates not allowed"),
            r"'caf\udce9' is no text in UTF-8. Give it another name.",
        ),
    ],
    ids=repr,
)
def test_what_the_machine_refuses_is_bad_input(ends: Ends, raised: Exception, said: str) -> None:
    done = ends(raised)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"edgenas: {said}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "raised",
    [
        EOFError("no data left"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError("no number"),
        ConnectionResetError(errno.ECONNRESET, "Reset"),
        ChildProcessError(errno.ECHILD, "No child"),
        UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range(128)"),
        RecursionError("too deep"),
    ],
    ids=repr,
)
def test_a_fault_of_ours_is_called_one(ends: Ends, raised: Exception) -> None:
    """click would call a file that ended an interruption, and end without a word where any pipe broke."""
    done = ends(raised)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"edgenas: A fault of EdgeNAS itself: {type(raised).__name__}: ")


def test_an_endless_message_has_an_end(ends: Ends) -> None:
    done = ends(InputError("x\n" * 1_000_000))
    assert done.returncode == 2 and len(done.stderr) < 5000
    assert done.stderr.count("\n") == 1


def test_the_cause_is_shown_to_who_asks(user: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    (user.folder / "bad.json").write_text("{")
    monkeypatch.setenv("EDGENAS_DEBUG", "1")
    done = user.types("table", "show", "./bad.json")
    assert done.returncode == 2 and "JSONDecodeError" in done.stderr
    assert done.stderr.endswith("Profile the device again.\n")
    monkeypatch.delenv("EDGENAS_DEBUG")
    user.is_refused(2, "cannot be read: Expecting property name", "table", "show", "./bad.json")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("File name too long. Give it a shorter name.", ("table", "show", LONG)),
        ("File name too long", ("table", "show", f"./{LONG}.json")),
        ("File name too long", ("table", "diff", LONG, LONG)),
        ("File name too long", ("predict", LONG, "x.png")),
        ("File name too long", ("data", "check", LONG)),
        ("devices: File exists. Something else has that name", ("device", "add", "pi", "ssh://pi@host")),
        ("is no file, and is not replaced by one", ("report", "night", "--to", ".")),
        ("is no file, and is not replaced by one", ("report", "night", "--to", "pipe")),
        (
            "pipe: File exists",
            ("report", "night", "--to", "pipe/x.html"),
        ),
    ],
)
def test_arguments_that_the_file_system_refuses(project: Terminal, said: str, words: tuple[str, ...]) -> None:
    before = {path: _state(path) for path in project.folder.rglob("*")}
    project.is_refused(2, said, *words)
    assert {path: _state(path) for path in before} == before


def _state(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mode, about.st_size


@pytest.mark.parametrize("option", ["--identity-file", "--python"])
def test_an_argument_that_is_no_text_in_utf_8(user: Terminal, option: str) -> None:
    user.is_refused(2, r"""caf\udce9"' is no text in UTF-8""", "device", "add", "pi", "ssh://pi@host", option, NO_UTF8)
    assert not (user.folder / "devices" / "pi.toml").exists()


@pytest.fixture
def project(user: Terminal, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """With a study, a pipe, and a file where folders of devices belong."""
    monkeypatch.chdir(user.folder)
    begin(Settings("night", "digits", "board", "t", "tiny", (8, 8, 1)))
    os.mkfifo(user.folder / "pipe")
    (user.folder / "devices").touch()
    return user


def test_no_command_is_helped(user: Terminal) -> None:
    for words in ((), ("device",)):
        done = user.types(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Usage: ") and done.stderr.count("\n") > 10


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe whose reader has gone, as that of `edgenas ... | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(
    "words", [["--help"], ["device", "list"], ["device", "list", "--json"], ["device", "show", "x"]]
)
def test_whoever_has_seen_enough_is_told_no_more(words: list[str], unread: int, tmp_path: Path) -> None:
    done = subprocess.run([*RUN, *words], cwd=tmp_path, stdout=unread, stderr=subprocess.PIPE, text=True)
    wrong = "show" in words
    assert (done.returncode, bool(done.stderr)) == ((2, True) if wrong else (0, False)), done.stderr
    assert subprocess.run([*RUN, *words], cwd=tmp_path, stdout=unread, stderr=unread).returncode == (2 if wrong else 0)


@pytest.mark.parametrize("words", [["device", "list"], ["device", "list", "--json"], ["--help"]])
def test_output_on_a_full_disk(words: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*RUN, *words], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert done.stderr.startswith("edgenas: This machine: No space left on device. Free")
        assert subprocess.run([*RUN, "device", "show", "x"], cwd=tmp_path, stdout=full, stderr=full).returncode == 2


CLOSED = """
import os
for number in (0, 1, 2):
    os.close(number)
os.execv({python!r}, [{python!r}, "-c", {code!r}])
"""
OPENS = """
import sys
from pathlib import Path
from edgenas.cli.main import _ready_streams
_ready_streams()
with Path("data").open("w") as file:
    sys.exit(file.fileno() if sys.stdout.write("x") and sys.stderr.write("x") and not sys.stderr.flush() else 0)
"""


def test_closed_streams_are_no_file_s(tmp_path: Path) -> None:
    """The number of a closed stream would go to the next file that is opened, and with it whatever is printed."""
    script = CLOSED.format(python=sys.executable, code=OPENS)
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path).returncode > 2
    assert (tmp_path / "data").read_text() == ""


def test_a_terminal_without_unicode_gets_what_it_can_show(tmp_path: Path) -> None:
    code = "from edgenas.cli.main import _ready_streams; from edgenas.cli.printing import stdout; "
    done = subprocess.run(
        [sys.executable, "-c", f"{code} _ready_streams(); stdout.print('±')"],
        cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "?\n", "")
