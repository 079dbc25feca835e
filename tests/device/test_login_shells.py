"""Whatever an account's login shell is: commands reach it as they are, or its own words say why they do not."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import paramiko
import pytest

from edgenas.device import Device, Runtime, connect, findings, login, open_agent, pythons, scripts, setup
from edgenas.device.identities import Identities, Offer
from edgenas.device.target import Target
from edgenas.errors import DeviceError, UnreachableError
from tests.board import Board

# Refuses what csh does: a line feed or a "!" in quotes, whichever they are. What is left means the same to both.
CSH = r"""#!/bin/sh
case $1 in *"
"*) echo "Unmatched '\\''."; exit 1 ;; *!*) echo "${1#*!}: Event not found."; exit 1 ;; esac
exec /bin/sh -c "$1"
"""
# In fish's quotes a backslash takes the one that follows it, or the quote; and there is no other way to join quotes.
FISH = r"""#!/bin/sh
case $1 in *\\\\* | *\\"'"* | *"'"'"'*) echo "fish: Unexpected end of string"; exit 127 ;; esac
exec /bin/sh -c "$1"
"""
WORDS = [
    "",
    "a b",
    "new\nline\n",
    "a!b",
    "it's",
    '"$HOME"',
    "\\n\\\\",
    "`touch canary`",
    "é漢",
    "\t",
    "%s%%",
    "-n",
    "\x1b[31m",
]


@pytest.fixture
def board_with(tmp_path: Path) -> Iterator[Callable[[str], Board]]:
    """A board whose accounts have a shell with such a text."""
    boards: list[Board] = []

    def make(shell: str) -> Board:
        board = Board(tmp_path / "own")
        boards.append(board)
        (tmp_path / "shell").write_text(shell)
        (tmp_path / "shell").chmod(0o755)
        board.stop()
        with (board.folder / "sshd_config").open("a") as config:
            config.write(f'ForceCommand {tmp_path}/shell "$SSH_ORIGINAL_COMMAND"\n')
        board.start()
        return board

    yield make
    for board in boards:
        board.stop()


def test_the_shells_here_refuse_what_the_real_ones_do(tmp_path: Path):
    for name, text, refused in (("csh", CSH, "a\nb"), ("csh", CSH, "a!"), ("fish", FISH, "\\\\")):
        (tmp_path / name).write_text(text)
        command = shlex.join(["echo", "good", refused])
        for asked, good in ((command, False), ("echo good", True)):
            done = subprocess.run(["sh", str(tmp_path / name), asked], capture_output=True, text=True)
            assert (done.stdout == "good\n") is good


@pytest.mark.parametrize("shell", [CSH, FISH], ids=["csh", "fish"])
def test_what_runs_there_gets_its_words_as_they_are(board_with: Callable[[str], Board], tmp_path: Path, shell: str):
    board = board_with(shell)
    (tmp_path / "content").write_bytes(b"some\0bytes\n")
    with connect(board.device()) as connection:
        said = connection.run(["printf", "<%s>", *WORDS]).stdout
        assert said == "".join(f"<{word}>" for word in WORDS)
        connection.put(tmp_path / "content", "a ! name\n")
        connection.get("a ! name\n", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"some\0bytes\n"
        with open_agent(connection) as agent:
            assert agent.info.cores > 0
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize("script", [scripts.START, scripts.STOP])
def test_scripts_hold_nothing_that_a_login_shell_would_change(script: str):
    assert not set(scripts.command(script, WORDS).replace("sh -c '", "").replace("' sh '", "")[:-1]) & set("\n!'")
    assert not set(script) & set("\\")


@pytest.mark.parametrize(
    ("shell", "said"),
    [
        (
            "#!/bin/sh\necho This account is currently not available.\nexit 1\n",
            "This account is currently not available",
        ),
        ("#!/bin/sh\nexit 1\n", "nothing, as /bin/false does"),
        ("#!/bin/sh\necho WARNING: Your password has expired. >&2\nexit 1\n", "WARNING: Your password has expired"),
        (
            "#!/bin/sh\necho This service allows sftp connections only.\nexit 1\n",
            "This service allows sftp connections only",
        ),
    ],
    ids=["nologin", "false", "password", "sftp"],
)
def test_an_account_that_runs_no_commands_is_told_in_its_own_words(
    board_with: Callable[[str], Board], shell: str, said: str
):
    device: Device = board_with(shell).device()
    words = rf"login of {device.address.user!r} works, but runs no command there\. It says: {said} .* chsh -s /bin/sh"
    with pytest.raises(DeviceError, match=words) as caught:
        setup(device, lambda step: None)
    assert not isinstance(caught.value, UnreachableError)
    (finding,) = findings(device)
    assert finding.level == "problem" and said in finding.what


class Refuses:
    """A server that takes no key, and says why, as PAM does; it may hang up then."""

    def __init__(self, words: bytes | None, hangs_up: bool) -> None:
        self.auth_handler, self._hangs_up = SimpleNamespace(banner=words), hangs_up
        self.server_extensions: dict[str, bytes] = {}

    def auth_none(self, user: str) -> None:
        raise paramiko.BadAuthenticationType("no", ["publickey"])

    def auth_publickey(self, user: str, key: object) -> None:
        raise paramiko.AuthenticationException

    def is_authenticated(self) -> bool:
        return False

    def is_active(self) -> bool:
        return not self._hangs_up


@pytest.mark.parametrize(
    ("said", "hangs_up", "words"),
    [
        (
            b"Hello.\nSystem is booting up.\n",
            True,
            r"^pi closed the connection at the login of 'me': System is booting up\.$",
        ),
        (
            b"Your account has expired.\n",
            False,
            r"^pi refuses the login of 'me' at h: Your account has expired\. Tried: ",
        ),
        (None, True, r"closed the connection at the login of 'me', after 1 of your keys"),
        (None, False, r"^pi refuses the login of 'me' at h\. Tried: .*the log of its SSH server says why"),
    ],
)
def test_what_a_server_says_of_its_refusal_is_repeated(
    monkeypatch: pytest.MonkeyPatch, said: bytes | None, hangs_up: bool, words: str
):
    found = Identities(offers=[Offer("key", SimpleNamespace(get_name=lambda: "ssh-ed25519"))])  # type: ignore[arg-type]
    monkeypatch.setattr(login, "find_identities", lambda target: found)
    target = Target("h", 22, "me", ())
    with pytest.raises(DeviceError, match=words):
        login.authenticate(Device("pi", "ssh://h"), target, Refuses(said, hangs_up))  # type: ignore[arg-type]


def _mounted(board: Board, folder: Path, option: str) -> None:
    """What is at `folder` is a disk of its own, for this server alone."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, for a disk of the server's own")
    folder.mkdir()
    script = 'mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && exec "$@"'
    board.stop()
    board._prefix += ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", option, str(folder)]
    board.start()


def test_a_disk_that_is_read_only_is_named_as_that(tmp_path: Path):
    with Board(tmp_path / "own") as board:
        _mounted(board, tmp_path / "work", "ro")
        with pytest.raises(DeviceError, match=r"could not be written: .*Read-only file system\. Its disk is mounted"):
            setup(board.device(folder=str(tmp_path / "work")), lambda step: None)


def test_a_disk_where_no_program_may_run_is_named_as_that(tmp_path: Path):
    steps: list[str] = []
    with Board(tmp_path / "own") as board:
        _mounted(board, tmp_path / "work", "noexec")
        with pytest.raises(DeviceError, match=r"Permission denied\. No program may run where that lies .*noexec"):
            setup(board.device(folder=str(tmp_path / "work")), steps.append)
    assert len(steps) == 1, "nothing was made or sent for it"


def test_what_an_interpreter_said_is_repeated(tmp_path: Path):
    """One that is too old, one that does not start, and none."""
    with Board(tmp_path / "own") as board:
        for name, script, said in (
            ("old", 'echo "x is Python 3.7" >&2; exit 1', r"it says: x is Python 3\.7\. Install one"),
            (
                "broken",
                "echo 'error while loading shared libraries: libz.so.1' >&2; exit 127",
                r"loading .*libz\.so\.1",
            ),
        ):
            (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / name).chmod(0o755)
            device = board.device(runtime=Runtime(python=str(tmp_path / name)))
            with connect(device) as connection, pytest.raises(DeviceError, match=said):
                open_agent(connection)
            assert any(re.search(said.partition(r"\. Install")[0], finding.what) for finding in findings(device))


def test_an_old_python_says_so():
    """By the very script that looks at one; there is none here."""
    script = f"import sys; sys.version_info = (3, 7, 9)\n{pythons.LOOK.replace('os, sys', 'os')}"
    done = subprocess.run([sys.executable, "-c", script, "/"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"{sys.executable} is Python 3.7\n")
