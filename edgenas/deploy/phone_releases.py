"""Releases of models on a phone, by its own shell: staged, verified, switched to in one rename, and back.

Below the phone's folder `models/NAME/`, or below an app's own `files/edgenas/NAME/`: `releases/N/` with N growing,
`current` a link to one of them, `history.jsonl`. On a file system without links `current` is a file of one line,
`releases/N`. Names are checked, and reach the shell as arguments only.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgenas.files as files
from edgenas.deploy.shipment import upload_s
from edgenas.device import Connection
from edgenas.device.agent.switching import way_back
from edgenas.errors import CheckFailedError, DeviceError, InputError

_MARGIN_KB = 1024
_PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_RELEASE = re.compile(r"[1-9][0-9]{0,17}")
# What cannot be entered or read is not taken for absent.
_LIST = """
[ -e "$1" ] || [ -L "$1" ] || exit 0
cd "$1" || exit 1
for m in *; do { [ -d "$m/releases" ] || [ -e "$m/current" ] || [ -L "$m/current" ]; } && printf '%s\\n' "$m"; done
exit 0
"""
_STATE = """
[ -e "$1" ] || [ -L "$1" ] || exit 0
cd "$1" || exit 1
echo "now $(date -u +%Y-%m-%dT%H:%M:%SZ)"
l=
if [ -L current ]; then l=$(readlink current); elif [ -f current ]; then IFS= read -r l < current; fi
n=${l#releases/} odd=
case $n in '' | 0* | *[!0-9]*) odd=1 ;; esac
[ "$l" = "releases/$n" ] && [ ! -L "releases/$n" ] || odd=1
[ ! -L current ] || [ ! -e "releases/$n" ] || [ current -ef "releases/$n" ] || odd=1
[ -e current ] || [ -L current ] || odd=
[ -L releases ] && odd=1
if [ "$odd" ]; then echo "odd $l" | head -n 1; else echo "current $n"; fi
for r in releases/*; do [ -d "$r" ] && [ ! -L "$r" ] && echo "release ${r##*/}"; done
echo history
[ -e history.jsonl ] || [ -L history.jsonl ] || exit 0
[ -f history.jsonl ] && cat history.jsonl
"""
_STAGE = """
mkdir -p "$1" && cd "$1" && rm -rf .staging current_?????? && mkdir .staging && df -Pk . | {
    read -r head; read -r disk total used free rest; echo "$free"; }
"""
_HASHES = """
cd "$1" || exit 1
for f in * .[!.]* ..?*; do
    [ -e "$f" ] || [ -L "$f" ] || continue
    { [ -f "$f" ] && [ ! -L "$f" ] && sha256sum < "$f" || echo none; } | {
        read -r hash rest; printf '%s %s\\n' "$hash" "$f"; }
done
"""
_MOVE = 'cd "$1" && mkdir -p releases && sync && mv .staging "releases/$2" && sync'
# Android's `ln -f` makes the link beside it, as current_XXXXXX, and renames that; its `mv` replaces no such link.
_SWITCH = """
cd "$1" || exit 1
[ -d "releases/$2" ] || { echo "release $2 is not there" >&2; exit 1; }
if ln -sfn "releases/$2" current 2>/dev/null && [ "$(readlink current)" = "releases/$2" ]; then sync; exit 0; fi
if [ -L current ] || [ -d current ]; then echo "current cannot be replaced" >&2; exit 1; fi
printf 'releases/%s\\n' "$2" > .current-new && sync && mv -f .current-new current && sync
"""
# What could not be noted whole did not come to pass: it is taken off again.
_NOTE = """
cd "$1" || exit 1
size=$(2>/dev/null wc -c < history.jsonl || echo 0)
{ { [ -z "$(tail -c 1 history.jsonl 2>/dev/null)" ] || echo; } && cat; } >> history.jsonl && sync && exit 0
truncate -s "$size" history.jsonl
exit 1
"""


@dataclass(frozen=True)
class State:
    """What a phone holds of one model.

    Attributes:
        now: the phone's clock, UTC.
        live: the release that `current` names.
        releases: those that are there, in order.
        events: of the history, oldest first.
    """

    now: str | None
    live: int | None
    releases: tuple[int, ...]
    events: tuple[dict[str, Any], ...]

    @property
    def previous(self) -> int | None:
        """The release that `rollback` would make live."""
        way = way_back(self.events, self.live)
        return next((release for release in reversed(way[:-1]) if release in self.releases), None)

    @property
    def gone_back_from(self) -> int | None:
        """The release that a rollback left which was cut before it could be noted; None: none was."""
        noted = way_back(self.events)
        return noted[-1] if self.live in noted[:-1] else None

    @property
    def were_live(self) -> set[int]:
        """Every release that is or ever was live there."""
        return {event["release"] for event in self.events} | (set() if self.live is None else {self.live})

    @property
    def newest(self) -> int:
        """The largest number of those that were ever live; 0: none was."""
        return max(self.were_live, default=0)


class PhoneReleases:
    """The models on a phone.

    Args:
        connection: to the phone.
        package: the debuggable app whose own files they are put in; None: the phone's work folder.

    Raises:
        InputError: that is no name of a package.
    """

    def __init__(self, connection: Connection, package: str | None = None) -> None:
        if package is not None:
            check_package(package)
        self._connection = connection
        self._package = package
        self._prefix = [] if package is None else ["run-as", package]
        self._root = f"{connection.folder}/models" if package is None else "files/edgenas"
        if package is not None:
            self._run("exit 0")

    def names(self) -> list[str]:
        """The models that were ever put there."""
        return sorted(name for name in self._run(_LIST, self._root).splitlines() if _NAME.fullmatch(name))

    def state(self, name: str) -> State:
        """What the phone holds of a model; nothing of it is believed unchecked.

        Raises:
            CheckFailedError: what is called `current` names none of its own releases.
        """
        head, _, history = self._run(_STATE, self._model(name)).partition("history\n")
        now, live, releases = None, None, []
        for line in head.split("\n"):
            key, _, value = line.partition(" ")
            if key == "now" and re.fullmatch(r"[0-9TZ:-]{20}", value):
                now = value
            elif key == "current" and _RELEASE.fullmatch(value):
                live = int(value)
            elif key == "odd" or (key == "current" and value):
                raise CheckFailedError(
                    f"{self._connection.device.name}: {self._model(name)}/current is no link to one of its releases "
                    f"(it leads to {value[:200]!r}): EdgeNAS did not make it so. Remove it there, and ship again."
                )
            elif key == "release" and _RELEASE.fullmatch(value):
                releases.append(int(value))
        return State(now, live, tuple(sorted(releases)), tuple(_events(history)))

    def stage(self, name: str, size_bytes: int) -> str:
        """An empty folder for a new release, its path there.

        Raises:
            CheckFailedError: no room.
        """
        free = self._run(_STAGE, self._model(name)).strip()
        needed_kb = (size_bytes >> 10) + _MARGIN_KB
        if not free.isdigit() or int(free) < needed_kb:
            self.discard(name)
            raise CheckFailedError(
                f"{self._connection.device.name}: {name} needs {needed_kb} kB with 1 MB to spare; the phone has "
                f"{free[:20] or 'an unknown number of'} kB free."
            )
        return f"{self._model(name)}/.staging"

    def put(self, local: Path, staging: str, file: str) -> None:
        """Send a file into a staging folder."""
        timeout_s = upload_s(local.stat().st_size)
        if self._package is None:
            self._connection.put(local, f"{staging}/{file}", timeout_s)
            return
        # An app's own files are out of adb's reach, and this folder out of the app's: a pipe between the two.
        between = f"{self._connection.folder}/to-app"
        pipe = 'cat "$1" | run-as "$2" sh -c \'cat > "$1"\' sh "$3"'
        try:
            self._connection.put(local, between, timeout_s)
            argv = ["sh", "-c", pipe, "sh", between, self._package, f"{staging}/{file}"]
            done = self._connection.run(argv, timeout_s)
        finally:
            self._connection.run(["rm", "-f", "--", between])
        if done.returncode != 0:
            raise DeviceError(f"{self._connection.device.name}: {file} did not reach the app: {done.stderr.strip()}.")

    def verify(self, folder: str, hashes: Mapping[str, str]) -> None:
        """Raise `CheckFailedError` unless exactly these files are in a folder, each with its SHA-256."""
        where = self._connection.device.name
        found: dict[str, str] = {}
        for line in self._run(_HASHES, folder, timeout_s=300).splitlines():
            digest, _, file = line.partition(" ")
            found[file] = digest
        for file in sorted({*found, *hashes}):
            if file not in hashes:
                raise CheckFailedError(f"{where}: {file!r} was not expected among the release's files.")
            if file not in found:
                raise CheckFailedError(f"{where}: {file} is missing from the release.")
            if found[file] != hashes[file]:
                raise CheckFailedError(
                    f"{where}: {file} is not what was sent: expected sha256 {hashes[file]}, received {found[file]}."
                )

    def reachable(self, folder: str, file: str) -> str:
        """The path of a release's file that programs of the phone's shell can read: an app's own is copied out."""
        if self._package is None:
            return f"{folder}/{file}"
        copy = f"{self._connection.folder}/bench/of-app-{file}"
        script = 'mkdir -p "$(dirname "$3")" && run-as "$1" cat "$2" > "$3"'
        done = self._connection.run(["sh", "-c", script, "sh", self._package, f"{folder}/{file}", copy], 600)
        if done.returncode != 0:
            raise DeviceError(f"{self._connection.device.name}: {file} cannot be read: {done.stderr.strip()[-200:]}.")
        return copy

    def folder(self, name: str, release: int) -> str:
        """The path of a release there."""
        return f"{self._model(name)}/releases/{release}"

    def adopt(self, name: str, release: int) -> None:
        """Give what is staged its number; it is not live yet."""
        self._run(_MOVE, self._model(name), str(release))

    def point(self, name: str, release: int | None) -> None:
        """Let `current` name a release that is there; None: nothing is live any more.

        Raises:
            DeviceError: no such release is there, or the switch failed.
        """
        if release is None:
            self._run('rm -f -- "$1/current"', self._model(name))
        else:
            self._run(_SWITCH, self._model(name), str(release))

    def note(self, name: str, event: str, release: int, **more: Any) -> None:
        """Write down what happened, by the phone's clock."""
        noted = {"event": event, "release": release, "at": self.state(name).now, **more}
        self._run(_NOTE, self._model(name), input=json.dumps(noted).encode() + b"\n")

    def prune(self, name: str, keep: int) -> None:
        """Remove releases but the live one, the one that `rollback` goes to, and the last `keep` that were live."""
        state = self.state(name)
        kept = {state.live, state.previous, *sorted(state.were_live & set(state.releases))[-max(keep, 2) :]}
        for old in set(state.releases) - kept:
            self.remove(name, old)

    def remove(self, name: str, release: int) -> None:
        """Remove a release."""
        self._run('rm -rf -- "$1"', self.folder(name, release))

    def discard(self, name: str) -> None:
        """Remove what is staged, and the model's folder where nothing else is in it."""
        script = 'cd "$1" 2>/dev/null || exit 0; rm -rf .staging; rmdir releases "$1" 2>/dev/null; exit 0'
        self._run(script, self._model(name))

    def _model(self, name: str) -> str:
        return f"{self._root}/{files.check_name('model', name)}"

    def _run(self, script: str, *args: str, input: bytes | None = None, timeout_s: float = 60) -> str:  # noqa: A002
        done = self._connection.run([*self._prefix, "sh", "-c", script, "sh", *args], timeout_s, input)
        if done.returncode == 0:
            return done.stdout
        said = done.stderr.strip()[-300:] or f"exit code {done.returncode}"
        if "run-as:" in said:
            raise DeviceError(
                f"{self._connection.device.name}: the files of {self._package} cannot be reached ({said}): install a "
                "debuggable build of the app, and start it once. A release build takes its model as an asset."
            )
        raise DeviceError(f"{self._connection.device.name}: its shell refused: {said}.")


def check_package(package: str) -> None:
    """Raise `InputError` for what is no name of an Android package."""
    if len(package) > 255 or not _PACKAGE.fullmatch(package):
        raise InputError(f"{package!r} is no Android package; expected a name such as com.example.camera.")


def _events(history: str) -> list[dict[str, Any]]:
    """What happened; a line torn by a power cut is left out."""
    events = []
    for line in history.splitlines():
        try:
            event = files.parse_json(line)
            release, at = event["release"], event["at"]
            whole = type(release) is int and 0 < release < 10**18 and (at is None or isinstance(at, str))
            if whole and event["event"] in ("activate", "rollback"):
                events.append(event)
        except (ValueError, KeyError, TypeError):
            continue
    return events
