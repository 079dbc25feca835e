"""Who is let in, and who is trusted: host keys, users' keys, jump hosts. Set-ups of OpenSSH's: test_ssh_setups.py."""

import dataclasses
import os
import pty
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from edgenas.device import Device, connect, fetch_host_key, fingerprint, trust
from edgenas.errors import CheckFailedError, DeviceError, InputError, UnreachableError
from tests.board import Board, ssh_with_config
from tests.waiting import free_port, until


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name server is asked: no host has a name."""
    really = socket.getaddrinfo

    def look_up(host: str, *more: Any, **others: Any) -> Any:
        if not host[0].isdigit():
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return really(host, *more, **others)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def _run(device: Device) -> str:
    with connect(device) as connection:
        return connection.run(["echo", "in"]).stdout.strip()


def test_a_host_key_that_is_not_known_names_the_remedy(board: Board):
    stranger = dataclasses.replace(board.device(), host_key=None)
    with pytest.raises(DeviceError, match=r"not known yet.*edgenas device trust board") as caught:
        _run(stranger)
    assert fingerprint(board.host_key_line) in str(caught.value)


def test_trust_pins_the_key_that_is_shown(board: Board):
    stranger = dataclasses.replace(board.device(), host_key=None)
    assert fetch_host_key(stranger) == (board.host_key_line, fingerprint(board.host_key_line))
    asked: list[str] = []
    with pytest.raises(DeviceError, match="was not accepted"):
        trust(stranger, confirm=lambda shown: bool(asked.append(shown)))
    assert asked == [fingerprint(board.host_key_line)]
    with pytest.raises(CheckFailedError, match="expected a host key with the fingerprint SHA256:abc"):
        trust(stranger, "SHA256:abc")
    assert not Path("devices").exists(), "nothing was saved so far"
    trusted = trust(stranger, asked[0])
    assert trusted == Device.load("board") == board.device()
    assert _run(trusted) == "in"
    with pytest.raises(InputError, match="no host key"):
        trust(Device.load("local"), "SHA256:abc")


def test_a_changed_host_key_is_refused_with_both_fingerprints(tmp_path: Path):
    with Board(tmp_path / "own") as board:
        before = board.device()
        assert _run(before) == "in"
        board.regenerate_host_key()
        with pytest.raises(DeviceError, match=r"host key has CHANGED.*edgenas device trust board") as caught:
            _run(before)
        assert fingerprint(before.host_key or "") in str(caught.value)
        assert fingerprint(board.host_key_line) in str(caught.value)
        assert _run(trust(before, fingerprint(board.host_key_line))) == "in"


def test_a_wrong_key_is_refused_and_named(board: Board, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    wrong = dataclasses.replace(board.device(), identity_file=str(board.make_key("other")))
    with pytest.raises(DeviceError, match=r"refuses the login of .*Tried: .*other\. Put your public key"):
        _run(wrong)


def test_a_server_that_hangs_up_after_too_many_keys_is_not_called_unreachable(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with Board(tmp_path / "own") as board:
        board.stop()
        with (board.folder / "sshd_config").open("a") as server:
            server.write("MaxAuthTries 2\n")
        board.start()
        wrong = [board.make_key(f"wrong{number}") for number in range(4)]
        lines = ["Host 127.0.0.1", *(f"IdentityFile {path}" for path in [*wrong, board.user_key])]
        config.write_text("\n".join(lines) + "\n")
        device = dataclasses.replace(board.device(), identity_file=None)
        with pytest.raises(
            DeviceError, match=r"closed the connection at the login .*wrong1.* IdentitiesOnly"
        ) as caught:
            _run(device)
        assert not isinstance(caught.value, UnreachableError)
        assert _run(board.device()) == "in"


def test_identity_files_that_are_none(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(InputError, match="'/nowhere/id' does not exist"):
        _run(dataclasses.replace(board.device(), identity_file="/nowhere/id"))
    (tmp_path / "id").write_text("no key")
    with pytest.raises(DeviceError, match=r"refuses the login.*id \(not a private key"):
        _run(dataclasses.replace(board.device(), identity_file=str(tmp_path / "id")))


@pytest.mark.usefixtures("no_names")
def test_an_unreachable_device_is_told_from_one_that_is_no_ssh_server(board: Board):
    with pytest.raises(DeviceError, match=r"cannot be reached at 127\.0\.0\.1 port .*refused"):
        _run(board.device(port=free_port()))
    with pytest.raises(DeviceError, match=r"there is no host 'no-such-host\.invalid'"):
        _run(Device("far", "ssh://no-such-host.invalid"))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(DeviceError, match="answers, but not as an SSH server"):
            _run(board.device(port=listener.getsockname()[1]))


def test_a_locked_key_works_through_the_agent_only_without_a_terminal(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    locked = board.make_key("locked", "secret words")
    with (board.folder / "authorized_keys").open("a") as file:
        file.write(Path(f"{locked}.pub").read_text())
    device = dataclasses.replace(board.device(), identity_file=str(locked))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(DeviceError, match=r"needs its passphrase.*ssh-add"):
        _run(device)
    address = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(address)], stdout=subprocess.DEVNULL)
    try:
        asked = os.environ | {"SSH_AUTH_SOCK": str(address)}
        until(lambda: subprocess.run(["ssh-add", "-l"], env=asked, capture_output=True).returncode < 2, "it answers")
        (tmp_path / "ask").write_text("#!/bin/sh\necho secret words\n")
        (tmp_path / "ask").chmod(0o700)
        asking = {"SSH_AUTH_SOCK": str(address), "SSH_ASKPASS": str(tmp_path / "ask"), "SSH_ASKPASS_REQUIRE": "force"}
        subprocess.run(["ssh-add", "-q", str(locked)], check=True, env=os.environ | asking)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(address))
        assert _run(device) == "in"
    finally:
        agent.terminate()
        agent.wait(10)


def test_a_passphrase_is_asked_for_on_the_terminal(board: Board, monkeypatch: pytest.MonkeyPatch):
    locked = board.make_key("locked too", "secret words")
    with (board.folder / "authorized_keys").open("a") as file:
        file.write(Path(f"{locked}.pub").read_text())
    device = dataclasses.replace(board.device(), identity_file=str(locked))
    device.save()
    for answer, said in (("secret words", "let in"), ("wrong", "not the passphrase")):
        output = _typed("Passphrase of", answer)
        assert said in output
        assert answer not in output


def test_a_password_is_asked_for_on_the_terminal_and_stored_nowhere(
    tmp_path_factory: pytest.TempPathFactory, project: Path
):
    """The server sees an /etc/shadow of its own, bound over the machine's in a mount namespace of its own."""
    with Board(tmp_path_factory.mktemp("locked")) as board:
        board.take_password("open sesame")
        dataclasses.replace(board.device(), identity_file=None).save()
        with pytest.raises(DeviceError, match="refuses the login"):  # without a terminal nothing is asked
            _run(Device.load("board"))
        assert "let in" in (output := _typed("Password of", "open sesame"))
        assert "sesame" not in output
        assert "refuses the login" in _typed("Password of", "close sesame")
    for path in [*project.rglob("*"), *(Path.home() / ".edgenas").rglob("*.toml")]:
        assert path.is_dir() or b"sesame" not in path.read_bytes()


def _typed(question: str, answer: str) -> str:
    """What a terminal shows of a connection to the device `board`, where somebody answers a question."""
    code = (
        "from edgenas.device import Device, connect\n"
        "with connect(Device.load('board')) as connection: print(connection.run(['echo', 'let', 'in']).stdout)"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.pop("SSH_AUTH_SOCK", None)
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
        os.execv(sys.executable, [sys.executable, "-c", code])
    output = b""
    while question.encode() not in output:
        output += os.read(terminal, 1000)
    os.write(terminal, answer.encode() + b"\n")
    try:
        while data := os.read(terminal, 1000):
            output += data
    except OSError:
        pass  # the terminal's other end is closed
    os.waitpid(pid, 0)
    os.close(terminal)
    return output.decode()


@pytest.fixture
def config(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's SSH configuration that knows the board as `tiny` (through an Include)."""
    boards = tmp_path / "boards"
    boards.write_text(
        f"Host tiny\n  HostName 127.0.0.1\n  Port {board.port}\n  User {board.user}\n  IdentityFile {board.user_key}\n"
    )
    path = ssh_with_config(tmp_path, monkeypatch)
    path.write_text(f"Include {boards}\n")
    return path


@pytest.mark.usefixtures("no_names")
def test_ssh_config_names_host_port_user_and_key(board: Board, config: Path):
    assert _run(Device("tiny", "ssh://tiny", board.host_key_line)) == "in"
    config.write_text("")
    with pytest.raises(DeviceError, match="no host 'tiny'"):
        _run(Device("tiny", "ssh://tiny", board.host_key_line))


def test_proxy_command_carries_the_connection(board: Board, config: Path, tmp_path: Path):
    sign = tmp_path / "used"
    relay = tmp_path / "relay.py"
    relay.write_text(
        "import os, select, socket, sys\n"
        f"open({str(sign)!r}, 'w').close()\n"
        "link = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "while True:\n"
        "    for ready in select.select([0, link], [], [])[0]:\n"
        "        data = os.read(0, 9999) if ready == 0 else link.recv(9999)\n"
        "        if not data: sys.exit()\n"
        "        os.write(1, data) if ready != 0 else link.sendall(data)\n"
    )
    config.write_text(f"Host tiny\n  ProxyCommand {sys.executable} {relay} %h %p\nInclude {config.parent}/boards\n")
    assert _run(Device("tiny", "ssh://tiny", board.host_key_line)) == "in"
    assert sign.exists()
    refusing = "ProxyCommand sh -c 'echo no way through >&2; exit 1'"
    config.write_text(f"Host tiny\n  {refusing}\nInclude {config.parent}/boards\n")
    with pytest.raises(DeviceError, match="the proxy said: no way through"):
        _run(Device("tiny", "ssh://tiny", board.host_key_line))


def test_proxy_jump_goes_through_the_user_s_own_ssh(board: Board, config: Path, tmp_path: Path):
    with Board(tmp_path / "gate") as gate:
        known = config.parent / "known"
        known.write_text(f"[127.0.0.1]:{gate.port} {gate.host_key_line}\n")
        hop = (
            f"Host gate\n  HostName 127.0.0.1\n  Port {gate.port}\n  User {gate.user}\n  IdentityFile {gate.user_key}\n"
        )
        hop += f"  IdentitiesOnly yes\n  BatchMode yes\n  UserKnownHostsFile {known}\n"
        config.write_text(f"{hop}Host tiny\n  ProxyJump gate\n" + (config.parent / "boards").read_text())
        device = Device("tiny", "ssh://tiny", board.host_key_line)
        assert _run(device) == "in"
        gate.stop()
        with pytest.raises(DeviceError, match=r"the proxy said: .*[Cc]onnection"):
            _run(device)
