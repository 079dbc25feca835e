"""Ways to set SSH up, each tried with OpenSSH's own client beside EdgeNAS: where `ssh` logs in unasked, EdgeNAS does.

A set-up is a function that makes what it needs and gives the lines of the user's SSH configuration.
"""

import contextlib
import os
import pwd
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgenas.device import Device, connect
from edgenas.device import target as targets
from edgenas.device.identities import find_identities, unlock
from edgenas.device.login import _offer
from edgenas.device.target import Target, resolve
from edgenas.errors import DeviceError, InputError, UnreachableError
from tests.board import Board, ssh_with_config
from tests.waiting import until


def _keygen(*argv: object) -> None:
    subprocess.run(["ssh-keygen", "-q", *map(str, argv)], check=True, stdin=subprocess.DEVNULL, capture_output=True)


class User:
    """Somebody with a board called `tiny`, keys in a folder, SSH agents and an `ssh` of their own."""

    def __init__(self, folder: Path, board: Board, config: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.board, self.config, self.patch = folder, board, config, patch
        self.key = board.user_key  # the one that the board takes
        self._agents = contextlib.ExitStack()

    def new_key(self, name: str, kind: str = "ed25519") -> Path:
        """A key that the board does not know."""
        size = ("-b", 2048) if kind == "rsa" else ()
        _keygen("-t", kind, *size, "-N", "", "-C", name, "-f", self.folder / name)
        return self.folder / name

    def copy(self, name: str, passphrase: str = "") -> Path:
        """The key that the board takes in another file, without a .pub beside it."""
        path = self.folder / name
        path.write_bytes(self.key.read_bytes())
        path.chmod(0o600)
        if passphrase:
            _keygen("-p", "-P", "", "-N", passphrase, "-f", path)
        return path

    def sign(self, key: Path, validity: str = "always:forever") -> Path:
        """A certificate of a key by the authority that the board trusts."""
        authority, user = self.board.folder / "authority", self.board.user
        _keygen("-s", authority, "-I", "test", "-n", user, "-V", validity, f"{key}.pub")
        return Path(f"{key}-cert.pub")

    def agent(self, *keys: Path, options: tuple[str, ...] = ()) -> str:
        """The socket of an agent that holds these keys."""
        address = self.folder / f"agent-{len(list(self.folder.glob('agent-*')))}"
        process = subprocess.Popen(["ssh-agent", "-D", "-a", str(address)], stdout=subprocess.DEVNULL)
        self._agents.callback(process.wait, 10)
        self._agents.callback(process.terminate)
        asked = os.environ | {"SSH_AUTH_SOCK": str(address), "SSH_ASKPASS": "/bin/false"}
        until(lambda: subprocess.run(["ssh-add", "-l"], env=asked, capture_output=True).returncode < 2, "it answers")
        for key in keys:
            subprocess.run(["ssh-add", "-q", *options, str(key)], env=asked, check=True, capture_output=True)
        return str(address)

    def setenv(self, name: str, value: object) -> None:
        self.patch.setenv(name, str(value))

    def close(self) -> None:
        self._agents.close()


@pytest.fixture(scope="module")
def setups_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board that takes one key, and certificates by an authority."""
    with Board(tmp_path_factory.mktemp("setups")) as board:
        board.stop()
        authority = board.make_key("authority")
        with (board.folder / "sshd_config").open("a") as config:
            config.write(f"TrustedUserCAKeys {authority}.pub\n")
        board.start()
        yield board


@pytest.fixture
def user(setups_board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    user = User(tmp_path, setups_board, ssh_with_config(tmp_path, monkeypatch), monkeypatch)
    try:
        yield user
    finally:
        user.close()


def _write(user: User, board: Board, lines: str) -> None:
    """The configuration: a set-up's lines, and after them how the board is reached."""
    known = user.folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{board.port} {board.host_key_line}\n")
    user.config.write_text(
        f"{lines.strip()}\n"
        f"Host *\n  HostName 127.0.0.1\n  Port {board.port}\n  User {board.user}\n  UserKnownHostsFile {known}\n"
    )


def _openssh(user: User) -> str:
    argv = ["ssh", "-o", "BatchMode=yes", "tiny", "echo in"]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60).stdout.strip()


def _edgenas(board: Board) -> str:
    with connect(Device("tiny", "ssh://tiny", board.host_key_line)) as connection:
        return connection.run(["echo", "in"]).stdout.strip()


def comment_after_a_value(user: User) -> str:
    return f"Host tiny  # the board\n  IdentityFile {user.key}  # mine\n  IdentitiesOnly yes # no other"


def equals_signs_and_quotes(user: User) -> str:
    user.copy("with space")
    return f'Host = "tiny"\n  IdentityFile = "{user.folder}/with space"\n'


def locked_key_in_the_agent(user: User) -> str:
    user.setenv("SSH_AUTH_SOCK", user.agent(user.key))
    return f"Host tiny\n  IdentityFile {user.copy('locked', 'words')}\n  IdentitiesOnly yes"


def locked_key_then_an_open_one(user: User) -> str:
    return f"Host tiny\n  IdentityFile {user.copy('locked', 'words')}\n  IdentityFile {user.key}"


def public_key_whose_private_half_is_in_the_agent(user: User) -> str:
    others = [user.new_key(f"other{number}") for number in range(7)]  # more than the board lets anybody try
    user.setenv("SSH_AUTH_SOCK", user.agent(*others, user.key))
    return f"Host tiny\n  IdentityFile {user.key}.pub\n"


def only_the_pub_file_is_here(user: User) -> str:
    (user.folder / "away.pub").write_text(Path(f"{user.key}.pub").read_text())
    user.setenv("SSH_AUTH_SOCK", user.agent(user.key))
    return f"Host tiny\n  IdentityFile {user.folder}/away\n  IdentitiesOnly yes"


def agent_of_a_path(user: User) -> str:
    return f"Host tiny\n  IdentityAgent {user.agent(user.key)}"


def agent_of_a_variable(user: User) -> str:
    user.setenv("MY_AGENT", user.agent(user.key))
    return "Host tiny\n  IdentityAgent $MY_AGENT"


def no_agent(user: User) -> str:
    user.setenv("SSH_AUTH_SOCK", user.agent(*[user.new_key(f"other{number}") for number in range(7)]))
    return f"Host tiny\n  IdentityAgent none\n  IdentityFile {user.key}"


def agent_that_is_gone(user: User) -> str:
    user.setenv("SSH_AUTH_SOCK", user.folder / "gone")
    return f"Host tiny\n  IdentityFile {user.key}"


def agent_that_refuses_to_sign(user: User) -> str:
    user.setenv("SSH_AUTH_SOCK", user.agent(user.new_key("asks"), options=("-c",)))
    with (user.board.folder / "authorized_keys").open("a") as file:
        file.write((user.folder / "asks.pub").read_text())
    return f"Host tiny\n  IdentityFile {user.key}"


def unreadable_keys_before_the_right_one(user: User) -> str:
    (user.folder / "garbage").write_text("no key")
    (user.folder / "garbage").chmod(0o600)
    (user.folder / "folder").mkdir()
    (user.folder / "dangling").symlink_to("nowhere")
    names = ("garbage", "folder", "dangling", "missing")
    return "\n".join(
        ["Host tiny", *(f"  IdentityFile {user.folder}/{name}" for name in names), f"  IdentityFile {user.key}"]
    )


def match_forms(user: User) -> str:
    return (
        "Match originalhost other\n  IdentityFile /nowhere\n  IdentitiesOnly yes\n  User nobody\n"
        f'Match originalhost tiny exec "test %n = tiny"\n  IdentityFile {user.key}\n'
        "Match !host tiny\n  User nobody\n"
        "Match final host 127.0.0.1\n  IdentitiesOnly yes"
    )


def negated_hosts(user: User) -> str:
    return f"Host * !tiny\n  User nobody\nHost t?ny\n  IdentityFile {user.key}"


def options_after_an_include(user: User) -> str:
    (user.folder / "more").write_text("ServerAliveInterval 7\nHost other\n  User nobody\n")
    return f"Host tiny\n  Include {user.folder}/more\n  IdentityFile {user.key}"


def variable_in_a_path(user: User) -> str:
    user.setenv("MY_KEYS", user.key.parent)
    return f"Host tiny\n  IdentityFile ${{MY_KEYS}}/{user.key.name}"


def tokens_in_a_path(user: User) -> str:
    user.copy(f"tiny-127.0.0.1-{user.board.user}-{user.board.port}%")
    return f"Host tiny\n  IdentityFile {user.folder}/%n-%h-%r-%p%%"


def certificate_file(user: User) -> str:
    certificate = user.sign(key := user.new_key("key"))
    certificate.rename(user.folder / "elsewhere.pub")
    return f"Host tiny\n  IdentityFile {key}\n  CertificateFile {user.folder}/elsewhere.pub\n  IdentitiesOnly yes"


def certificate_beside_the_key(user: User) -> str:
    user.sign(key := user.new_key("key", "ecdsa"))
    return f"Host tiny\n  IdentityFile {key}"


def certificate_of_a_key_in_the_agent(user: User) -> str:
    address = user.agent(key := user.new_key("key"))
    certificate = user.sign(key)
    key.unlink()
    return f"Host tiny\n  IdentityAgent {address}\n  CertificateFile {certificate}"


def certificate_alone_in_the_agent(user: User) -> str:
    user.sign(key := user.new_key("key", "rsa"))
    address = user.agent(key)
    asked = os.environ | {"SSH_AUTH_SOCK": address}
    subprocess.run(["ssh-add", "-q", "-k", "-d", str(key)], env=asked, check=True, capture_output=True)
    return f"Host tiny\n  IdentityAgent {address}"


def expired_certificate_beside_a_good_key(user: User) -> str:
    key = user.copy("key")
    (user.folder / "key.pub").write_text(Path(f"{user.key}.pub").read_text())
    user.sign(key, "20200101:20200102")
    return f"Host tiny\n  IdentityFile {key}"


def pkcs8_key(user: User) -> str:
    key = user.copy("pkcs8")
    _keygen("-p", "-P", "", "-N", "", "-m", "PKCS8", "-f", key)
    return f"Host tiny\n  IdentityFile {key}"


def proxy_command_with_tokens(user: User) -> str:
    return f"Host tiny\n  IdentityFile {user.key}\n  ProxyCommand ssh -W %h:%p -i {user.key} -o ProxyCommand=none %r@%h"


SETUPS: tuple[Callable[[User], str], ...] = (
    comment_after_a_value, equals_signs_and_quotes, locked_key_in_the_agent, locked_key_then_an_open_one,
    public_key_whose_private_half_is_in_the_agent, only_the_pub_file_is_here, agent_of_a_path, agent_of_a_variable,
    no_agent, agent_that_is_gone, agent_that_refuses_to_sign, unreadable_keys_before_the_right_one, match_forms,
    negated_hosts, options_after_an_include, variable_in_a_path, tokens_in_a_path, certificate_file,
    certificate_beside_the_key, certificate_of_a_key_in_the_agent, certificate_alone_in_the_agent,
    expired_certificate_beside_a_good_key, pkcs8_key, proxy_command_with_tokens,
)  # fmt: skip


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.__name__)
def test_where_openssh_logs_in_so_does_edgenas(user: User, setup: Callable[[User], str]):
    _write(user, user.board, setup(user))
    assert _openssh(user) == "in", "OpenSSH itself does not log in: the set-up is wrong"
    assert _edgenas(user.board) == "in"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], Board]]:
    """A board of the test's own, with these lines more in its sshd_config."""
    with contextlib.ExitStack() as stack:

        def serve(lines: str, **instead: str) -> Board:
            board = stack.enter_context(Board(tmp_path / "own"))
            board.stop()
            config = board.folder / "sshd_config"
            text = config.read_text()
            for option, value in instead.items():
                text = text.replace(f"{option} no", f"{option} {value}")
            config.write_text(f"{lines}\n{text}")
            board.start()
            return board

        yield serve


def test_a_server_that_wants_two_keys_gets_both(user: User, serve: Callable[[str], Board]):
    board = serve("AuthenticationMethods publickey,publickey")
    second = user.new_key("second")
    with (board.folder / "authorized_keys").open("a") as file:
        file.write(Path(f"{second}.pub").read_text())
    _write(user, board, f"Host tiny\n  IdentityFile {second}\n  IdentityFile {board.user_key}")
    assert (_openssh(user), _edgenas(board)) == ("in", "in")


def test_a_server_that_takes_no_rsa_is_offered_the_other_key(user: User, serve: Callable[[str], Board]):
    board = serve("PubkeyAcceptedAlgorithms ssh-ed25519")
    _write(user, board, f"Host tiny\n  IdentityFile {user.new_key('old', 'rsa')}\n  IdentityFile {board.user_key}")
    assert (_openssh(user), _edgenas(board)) == ("in", "in")


def test_an_rsa_key_is_not_offered_where_a_server_says_that_it_takes_none(user: User):
    """paramiko would end the connection over it. (New servers say what they take; the one here may not.)"""
    offered: list[object] = []
    transport = SimpleNamespace(
        server_extensions={"server-sig-algs": b"ssh-ed25519"},
        auth_publickey=lambda _, key: offered.append(key),
        is_authenticated=lambda: True,
    )
    keys = find_identities(Target("", 22, "", (user.new_key("old", "rsa"), user.key))).offers
    assert [_offer(transport, "me", key) for key in keys] == [False, True]  # type: ignore[arg-type]
    assert offered == [keys[1].key]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, for an /etc/shadow of the server's own")
def test_an_account_without_a_password_is_let_in_for_asking(user: User, serve: Callable[..., Board]):
    """As small boards have it out of the box."""
    board = serve("PermitEmptyPasswords yes", PasswordAuthentication="yes")
    _write(user, board, "Host tiny\n  IdentityFile none\n")
    with pytest.raises(DeviceError, match="Tried: no key, for there is none"):
        _edgenas(board)
    shadow = board.folder / "shadow"
    shadow.write_text(f"{board.user}::19000::::::\n")
    shadow.chmod(0o600)
    board.stop()
    board._hide(shadow, "/etc/shadow")
    board.start()
    assert (_openssh(user), _edgenas(board)) == ("in", "in")


@pytest.mark.parametrize(
    ("lines", "lacks", "has"),
    [
        ("KexAlgorithms sntrup761x25519-sha512@openssh.com", "kex algorithm", r"KexAlgorithms\): .*ecdh-sha2-nistp256"),
        ("Ciphers chacha20-poly1305@openssh.com", "ciphers", r"Ciphers\): aes128-ctr"),
        ("Ciphers aes128-ctr\nMACs umac-64-etm@openssh.com", "macs", r"MACs\): hmac-sha2-256"),
    ],
)
def test_algorithms_that_paramiko_lacks_are_named_as_that(
    user: User, serve: Callable[[str], Board], lines: str, lacks: str, has: str
):
    board = serve(lines)
    _write(user, board, f"Host tiny\n  IdentityFile {board.user_key}")
    assert _openssh(user) == "in"
    with pytest.raises(DeviceError, match=rf"paramiko, EdgeNAS's SSH client, lacks .*{lacks}.* \({has}") as caught:
        _edgenas(board)
    assert not isinstance(caught.value, UnreachableError), "it would be tried again, and count as switched off"


def test_keys_that_cannot_be_used_are_named_each_with_its_reason(user: User):
    blob = b"".join(len(part).to_bytes(4, "big") + part for part in (b"sk-ssh-ed25519@openssh.com", b"k" * 32, b"ssh:"))
    (user.folder / "token.pub").write_text(f"sk-ssh-ed25519@openssh.com {b64encode(blob).decode()} me\n")
    (user.folder / "garbage").write_text("no key")
    user.new_key("half").unlink()
    (user.folder / "half-cert.pub").write_text("no certificate")
    files = ("token", "garbage", "half.pub", "half", user.copy("locked", "words").name)
    user.setenv("SSH_AUTH_SOCK", user.folder / "gone")
    _write(user, user.board, "\n".join(["Host tiny", *(f"  IdentityFile {user.folder}/{name}" for name in files)]))
    assert _openssh(user) == ""
    with pytest.raises(DeviceError) as caught:
        _edgenas(user.board)
    said = str(caught.value)
    for words in (
        "token (a key of the kind sk-ssh-ed25519@openssh.com, which paramiko",
        "garbage (not a private key",
        "half.pub (only a public key, and the SSH agent does not have its private half",
        "half (only a public key, and the SSH agent",
        "half-cert.pub (not a certificate)",
        "gone (no such file",
        "locked (needs its passphrase, and there is no terminal",
    ):
        assert words in said


def test_a_passphrase_unlocks_its_key_and_nothing_else_does(user: User):
    locked, plain = user.copy("locked", "words"), find_identities(Target("", 22, "", (user.key,)))
    unlocked = unlock(locked, "words")
    assert unlocked is not None
    assert unlocked.asbytes() == plain.offers[0].key.asbytes()
    assert [unlock(locked, "other"), unlock(locked, ""), unlock(user.folder / "none", "words")] == [None] * 3


@pytest.mark.parametrize(
    ("cipher", "lacks"),
    [("chacha20-poly1305@openssh.com", True), ("aes192-ctr", True), ("aes256-gcm@openssh.com", False)],
)
def test_a_key_locked_in_any_of_openssh_s_ways_is_asked_for_or_named(user: User, cipher: str, lacks: bool):
    """And an agent that has it is used, whether paramiko can read the file or not."""
    locked = user.copy("locked")
    _keygen("-p", "-P", "", "-N", "words", "-Z", cipher, "-f", locked)
    found = find_identities(Target("", 22, "", (locked,)))
    assert found.offers == []
    assert found.locked == ([] if lacks else [locked])
    assert ["cipher, that paramiko, EdgeNAS's SSH client, lacks" in words for words in found.unusable] == [True] * lacks
    assert (unlock(locked, "words") is None) == lacks
    address = user.agent(user.key)
    held = find_identities(Target("", 22, "", (locked,), agent=address, only_files=True))
    assert (len(held.offers), held.locked, held.unusable) == (1, [], [])


def _stand_in(user: User, script: str) -> None:
    (user.folder / "bin" / "ssh").write_text(f"#!/bin/sh\n{script}\n")


def test_openssh_is_asked_for_what_the_device_s_url_says(user: User):
    _stand_in(
        user,
        f'echo "$*" > {user.folder}/asked\n'
        "echo user other; echo hostname 10.0.0.9; echo port 2200; echo identityfile none; echo identityagent none\n"
        "echo proxyjump me@gate:24,[fe80::1]:22; echo certificatefile ~/c; echo identitiesonly yes",
    )
    home = pwd.getpwuid(os.getuid()).pw_dir
    jump = "ssh -J me@gate:24 -W '[10.0.0.9]:2200' -- 'ssh://[fe80::1]:22'"
    found = resolve(Device("tiny", "ssh://me@tiny:77"))
    assert found == Target("10.0.0.9", 2200, "other", (), (Path(home, "c"),), "", True, jump)
    assert (user.folder / "asked").read_text() == "-GT -p 77 -l me -- tiny\n"
    resolve(Device("tiny", "ssh://tiny"))
    assert (user.folder / "asked").read_text() == "-GT -- tiny\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'config: line 3: Bad configuration option: nonsense' >&2; exit 255", "line 3: Bad configuration option"),
        ("exit 1", "exit status 1"),
        ("echo hello", "names no hostname, port and user"),
        ("exec sleep 30", "timed out"),
    ],
)
def test_an_openssh_that_cannot_say_is_an_input_error(
    user: User, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
):
    monkeypatch.setattr(targets, "_ASK_S", 0.2 if "sleep" in script else 30)
    _stand_in(user, script)
    with pytest.raises(InputError, match=f"^tiny: .*{reason}"):
        resolve(Device("tiny", "ssh://tiny"))


def test_a_wrong_configuration_is_told_in_openssh_s_words(user: User):
    user.config.write_text("Host tiny\n  Nonsense yes\n")
    with pytest.raises(InputError, match=r"ssh_config.*line 2: Bad configuration option: nonsense"):
        resolve(Device("tiny", "ssh://tiny"))


def test_without_openssh_the_device_s_file_alone_counts(user: User):
    _write(user, user.board, f"Host tiny\n  IdentityFile {user.key}")
    user.setenv("PATH", user.folder / "nothing")
    user.setenv("HOME", user.folder)
    keys = tuple(user.folder / ".ssh" / name for name in ("id_ed25519", "id_ecdsa", "id_rsa"))
    assert resolve(Device("tiny", "ssh://me@tiny")) == Target("tiny", 22, "me", keys)
    board = user.board.device()
    assert resolve(board) == Target("127.0.0.1", user.board.port, user.board.user, (user.key,))
    with connect(board) as connection:
        assert connection.run(["echo", "in"]).stdout == "in\n"


def test_nothing_of_a_device_s_url_becomes_an_option_of_ssh():
    for url in ("ssh://-oProxyCommand=x", "ssh://-oProxyCommand=x@tiny", "ssh://[-oProxyCommand=x]"):
        with pytest.raises(InputError):
            Device("tiny", url)
