"""Whom to log in to: a device's URL, read as the user's own OpenSSH reads it.

`ssh -G` says what ~/.ssh/config comes to; EdgeNAS does not read it. Without OpenSSH the device's file alone counts.
"""

import getpass
import os
import pwd
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgenas.device.device import Address, Device
from edgenas.errors import InputError
from edgenas.files import user_path

_ASK_S = 15.0  # `Match exec` may run a program of the user's
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


@dataclass(frozen=True)
class Target:
    """Whom to log in to, and with what, after OpenSSH has spoken."""

    host: str
    port: int
    user: str
    identity_files: tuple[Path, ...]
    certificate_files: tuple[Path, ...] = ()
    agent: str = ""  # the socket of the SSH agent, if there is one
    only_files: bool = False  # whether only those of the agent's keys are tried that a file names
    command: str = ""  # the ProxyCommand that carries the connection, if one does


def resolve(device: Device) -> Target:
    """The device's URL and identity_file, with what OpenSSH says of its host."""
    said = _ask(device.name, device.address)
    host, port, user = (said[option][0] for option in ("hostname", "port", "user"))
    if device.identity_file:
        said["identityfile"] = [str(user_path(device.identity_file))]
        if not Path(said["identityfile"][0]).is_file():
            raise InputError(f"{device.name}: identity_file {device.identity_file!r} does not exist.")
    files, certified = (tuple(map(Path, said.get(name, []))) for name in ("identityfile", "certificatefile"))
    agent = (said.get("identityagent", ["SSH_AUTH_SOCK"]) or [""])[0]
    if agent == "SSH_AUTH_SOCK" or agent.startswith("$"):
        agent = os.environ.get(agent.removeprefix("$"), "")
    command = (said.get("proxycommand") or [""])[0]
    if jump := said.get("proxyjump"):  # what OpenSSH itself makes of it
        *before, last = jump[0].split(",")
        hops = ["-J", ",".join(before)] if before else []
        command = shlex.join(["ssh", *hops, "-W", f"[{host}]:{port}", "--", f"ssh://{last}"])
    return Target(host, int(port), user, files, certified, agent, said.get("identitiesonly") == ["yes"], command)


def _ask(name: str, address: Address) -> dict[str, list[str]]:
    """What OpenSSH would use for an address: each option with its values, where they are not "none"."""
    argv = ["ssh", "-GT", *(["-p", str(address.port)] if address.port else [])]
    argv += [*(["-l", address.user] if address.user else []), "--", address.host]
    try:
        account = pwd.getpwuid(os.getuid())
        asked = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_S, check=True)
    except (KeyError, FileNotFoundError):  # no OpenSSH; nor does it work for a user without an account
        login = {"port": [str(address.port or 22)], "user": [address.user or getpass.getuser()]}
        keys = [str(user_path(f"~/.ssh/{key}")) for key in _DEFAULT_KEYS]
        return {"hostname": [address.host], **login, "identityfile": keys}
    except (OSError, subprocess.SubprocessError) as error:
        why = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip() or str(error)
        raise InputError(f"{name}: OpenSSH does not say how to reach {address.host}: {why.splitlines()[0]}") from None
    said: dict[str, list[str]] = {}
    for option, _, value in (line.partition(" ") for line in os.fsdecode(asked.stdout).splitlines()):
        said.setdefault(option, []).extend([value] if value != "none" else [])
    if not all(said.get(option) for option in ("hostname", "port", "user")):
        raise InputError(f"{name}: `{' '.join(argv)}` names no hostname, port and user. Is `ssh` OpenSSH's?")
    # -G leaves these as they were written. `~` is the account's home, as for ssh, whatever $HOME says.
    tokens = {"%": "%", "d": account.pw_dir, "u": account.pw_name, "i": str(account.pw_uid), "n": address.host}
    tokens |= {letter: said[option][0] for letter, option in (("h", "hostname"), ("p", "port"), ("r", "user"))}
    for option in {"identityfile", "certificatefile", "proxycommand"} & said.keys():
        values = said[option]
        if option != "proxycommand":
            own = f"~{account.pw_name}"
            values = [os.path.expandvars(os.path.expanduser(re.sub("^~(?=/)", own, it))) for it in values]  # noqa: PTH111
        said[option] = [re.sub("%(.)", lambda it: tokens.get(it[1], it[0]), value) for value in values]
    return said
