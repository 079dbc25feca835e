"""Wherever a shipment or a rollback is cut, the device serves the old or the new release, whole, and the same command
finishes it: each step of real agents over SSH, links, and hosts, while an application reads the model all the time.

tests/deploy/test_cuts.py has each of the agent's steps without processes, test_killed.py one real cut of each kind.
"""

# ruff: noqa: F811 - fixtures that are imported
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edgenas.files as files
from edgenas.deploy import Bundle, deployed, rollback, ship
from edgenas.deploy.keys import SigningKey, trust_key
from edgenas.device import Device, Runtime
from edgenas.errors import EdgeNASError
from edgenas.latency.profiling import measuring
from examples.live_model import LiveModel
from tests.board import Board, Proxy
from tests.deploy.conftest import board, bundle, hooked_python, keys, rewritten  # noqa: F401 - fixtures
from tests.deploy.filesystem import KILLER

Figures = Callable[[str, object], None]


class Reader:
    """An application on the device that reads the live model all the time."""

    def __init__(self, folder: Path) -> None:
        self._live = LiveModel(folder)
        self._end = threading.Event()
        self.reads = self.switches = 0
        self.bad: list[str] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.004):
            try:
                self.switches += self._live.changed()
                folder = self._live.folder()
                manifest = json.loads((folder / "manifest.json").read_text())
                for name in ("model.tflite", "labels.txt"):
                    if files.sha256(folder / name) != manifest["files"][name]:
                        self.bad.append(f"{folder / name} is not whole")
            except (OSError, ValueError, KeyError) as error:
                self.bad.append(repr(error))
            self.reads += 1


class Cuts:
    """Shipments to one board, each cut somewhere and then finished by the same call."""

    def __init__(
        self, board: Board, bundle: Bundle, rewritten: Callable[..., Bundle], folder: Path, key: SigningKey
    ) -> None:
        self._board, self._bundle, self._rewritten, self._folder = board, bundle, rewritten, folder
        self.work = folder / "work"
        self._plan = folder / "cut"
        self._plan.write_text("0")
        self.killed = self.device(
            hooked_python(folder / "hook", KILLER, EDGENAS_WORK=self.work, EDGENAS_CUT=self._plan)
        )
        self.direct = self.device(Runtime(python=sys.executable))
        self.tried = self.lost = 0
        self.missed: list[str] = []
        self._key = key
        trust_key(self.direct, key.public)
        for _ in range(2):  # so that the next one has one to prune
            self.release()

    def tell(self, figures: Figures, reader: Reader) -> None:
        """What came of all of them, which must be nothing."""
        figures("cuts", self.tried)
        figures("releases lost", self.lost)
        figures("half-written files seen", len(reader.bad))
        figures("reads by an application meanwhile", reader.reads)
        figures("switches that it saw", reader.switches)
        assert (self.lost, reader.bad) == (0, [])

    def release(self, keep: int = 2) -> int:
        """Ship a new release, uncut."""
        newer = self.another()
        ship(newer, self.direct, "digits", keep=keep)
        self._live = newer.manifest.release
        return self._live

    def device(self, runtime: Runtime, port: int | None = None) -> Device:
        return self._board.device(folder=str(self.work), runtime=runtime, port=port)

    def another(self) -> Bundle:
        """A newer bundle with a model of its own (bytes between a flatbuffer and the zip behind it mean nothing)."""
        newer = self._rewritten(self._bundle, self._folder)
        flatbuffer, separator, zipped = newer.model_path.read_bytes().rpartition(b"PK\x03\x04")
        content = flatbuffer + b"\0" * 100_000 + newer.folder.name.encode() + separator + zipped
        return Bundle.write(
            self._folder / f"{newer.folder.name}-padded",
            newer.manifest,
            content,
            newer.labels,
            newer.samples,
            self._key,
        )

    @contextlib.contextmanager
    def cut(self) -> Iterator[Bundle]:
        """The block is to ship the bundle and be cut; afterwards all is looked at, and the same finishes the job."""
        newer = self.another()
        try:
            yield newer
        except EdgeNASError:
            self.tried += 1
        self._look(newer.manifest.release)
        done = ship(newer, self.direct, "digits")
        assert done.active == newer.manifest.release
        self._look(newer.manifest.release)
        self._live = newer.manifest.release

    def _look(self, new: int) -> None:
        (found,) = deployed(self.direct)
        whole = all(
            files.sha256(path) == json.loads((path.parent / "manifest.json").read_text())["files"][path.name]
            for path in (self.work / "models" / "digits" / "current").iterdir()
            if path.suffix in (".tflite", ".txt")
        )
        self.lost += not (whole and found.release in (self._live, new))

    def roll_back_cut_at(self, step: int) -> bool:
        """Roll back from the third of three releases, killed at a step; whether there was such a step.

        The same call then has to make the second one live, as the first call meant, and the next one the first.
        """
        first, second, _ = (self.release(keep=3) for _ in range(3))
        self._plan.write_text(str(step))
        with contextlib.suppress(EdgeNASError):
            assert rollback(self.killed, "digits").active == second
        hit = Path(f"{self._plan}.hit")
        was_hit = hit.exists()
        hit.unlink(missing_ok=True)
        self._plan.write_text("0")
        self._look(second)
        if was_hit:
            self.tried += 1
            assert rollback(self.direct, "digits").active == second
        self._live = second
        assert rollback(self.direct, "digits").active == first
        self._look(first)
        self._live = first
        return was_hit

    def kill_agent_at(self, step: int) -> bool:
        """Whether there was such a step."""
        tried = self.tried
        self._plan.write_text(str(step))
        with self.cut() as newer:
            ship(newer, self.killed, "digits")
        self._plan.write_text("0")
        return self.tried > tried

    def cut_link_at(self, share: float, total: int) -> None:
        tried = self.tried
        with self.cut() as newer, Proxy(self._board.port) as proxy:
            proxy.cut_after = int(share * total)
            proxy.pause_s = 0.005
            ship(newer, self.device(self.direct.runtime, proxy.port), "digits")
        self.missed += [] if self.tried > tried else [f"the link at {share:.0%}"]

    def sent_bytes(self) -> int:
        """What one shipment sends over the link."""
        with Proxy(self._board.port) as proxy:
            ship(self.another(), self.device(self.direct.runtime, proxy.port), "digits")
            (found,) = deployed(self.direct)
            self._live = found.release
            return proxy.sent

    def kill_host_at(self, said: str, wait_s: float, pause_s: float = 0.0) -> None:
        """Kill the host's process so long after it said something; again, where it had ended by then."""
        hit = any(self._hits_host(said, wait_s, pause_s) for _ in range(5))
        self.tried += hit
        self.missed += [] if hit else [said]

    def _hits_host(self, said: str, wait_s: float, pause_s: float) -> bool:
        with self.cut() as newer, Proxy(self._board.port) as proxy:
            proxy.pause_s = pause_s
            self.device(self.direct.runtime, proxy.port).save()
            argv = [sys.executable, "-c", "from edgenas.cli import main; main()", "ship", str(newer.folder),
                    self.direct.name, "--as", "digits"]  # fmt: skip
            process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
            assert process.stderr is not None
            for line in process.stderr:
                if said in line:
                    break
            time.sleep(wait_s)
            process.send_signal(signal.SIGKILL)
            hit = process.wait() == -signal.SIGKILL
            process.stderr.close()
        return hit


@pytest.fixture(autouse=True)
def whatever_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the model takes plays no part here, nor does what else is at work on the machine."""
    monkeypatch.setattr(measuring, "MOST_AWAY", 1.0)
    monkeypatch.setattr(measuring, "MOST_MOVED", 100.0)


def test_no_cut_loses_a_release(
    board: Board, bundle: Bundle, rewritten: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    keys: Callable[..., SigningKey], figures: Figures,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    cuts = Cuts(board, bundle, rewritten, tmp_path, keys())
    with Reader(cuts.work / "models" / "digits") as reader:
        killed = 0
        while cuts.kill_agent_at(killed + 1):
            killed += 1
        total = cuts.sent_bytes()
        for share in (0.2, 0.5, 0.7, 0.9):
            cuts.cut_link_at(share, total)
        for said, wait_s in (
            ("sending", 0), ("checking", 0), ("checking", 0.1), ("measuring", 0.05)
        ):  # fmt: skip
            cuts.kill_host_at(said, wait_s)
        cuts.kill_host_at("making it live", 0.1, pause_s=0.1)  # slow enough to be hit
    cuts.tell(figures, reader)
    figures("of these, the agent's steps in the file system", killed)
    assert cuts.tried == killed + 9 >= 29, f"every cut hit but {cuts.missed}"
    assert reader.switches > cuts.tried
    assert len(list((cuts.work / "models" / "digits" / "releases").iterdir())) == 2, "the live one, the one before"


def test_no_cut_loses_what_a_rollback_goes_back_to(
    board: Board, bundle: Bundle, rewritten: Callable[..., Bundle], tmp_path: Path, keys: Callable[..., SigningKey],
    figures: Figures,
) -> None:  # fmt: skip
    cuts = Cuts(board, bundle, rewritten, tmp_path, keys())
    with Reader(cuts.work / "models" / "digits") as reader:
        while cuts.roll_back_cut_at(cuts.tried + 1):
            pass
    cuts.tell(figures, reader)
    assert cuts.tried >= 4, "the lock, the link, its rename, the note"
