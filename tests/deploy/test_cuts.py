"""Wherever the device's agent is killed, the old or the new release is live, whole, and the same command finishes.

Here the agent works in this process, and ends at each of its steps in the file system in turn. test_killed.py kills
real ones, one of each kind; benchmarks/real/test_cuts.py kills them everywhere.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import edgenas.files as files
from edgenas.deploy import Bundle, rollback, ship
from edgenas.device import Device
from edgenas.errors import EdgeNASError
from examples.live_model import LiveModel
from tests.deploy.filesystem import Steps
from tests.deploy.inside import Inside, end


class Cuts:
    """Releases of one model on a device, whose agent is killed now and then."""

    def __init__(
        self, device: Device, inside: Inside, bundle: Bundle, rewritten: Callable[..., Bundle], folder: Path
    ) -> None:
        self.device, self._bundle, self._rewritten, self._folder = device, bundle, rewritten, folder
        self.model = Path(device.folder) / "models" / "digits"
        self.allowed: set[int] = set()
        self.steps = Steps(Path(device.folder), lambda: inside.working, self.served)

    def another(self) -> Bundle:
        """A newer bundle with a model of its own (bytes after the end of a `.tflite` file mean nothing)."""
        newer = self._rewritten(self._bundle, self._folder)
        content = newer.model_path.read_bytes() + newer.folder.name.encode()
        return Bundle.write(newer.folder.with_suffix(".own"), newer.manifest, content, newer.labels, newer.samples)

    def ship(self, bundle: Bundle, keep: int = 2) -> int:
        """Uncut."""
        number = bundle.manifest.release
        assert ship(bundle, self.device, "digits", keep=keep).active == number
        self.allowed = {number}
        assert self.served() == number
        return number

    def served(self) -> int:
        """The release that an application finds, whole, and one of those that may be live now."""
        folder = LiveModel(self.model).folder()
        manifest = json.loads((folder / "manifest.json").read_text())
        for name in ("model.tflite", "labels.txt"):
            assert files.sha256(folder / name) == manifest["files"][name], f"{folder / name} is not whole"
        assert manifest["release"] in self.allowed
        return int(manifest["release"])


def test_no_cut_of_a_shipment_loses_a_release(
    local: Device, inside: Inside, bundle: Bundle, rewritten: Callable[..., Bundle], tmp_path: Path
) -> None:
    cuts = Cuts(local, inside, bundle, rewritten, tmp_path)
    for _ in range(2):  # so that the next one has one to prune
        live = cuts.ship(cuts.another())
    cut = 0
    while True:
        newer = cuts.another()
        cuts.allowed = {live, newer.manifest.release}
        with cuts.steps.until(cut + 1, end), contextlib.suppress(EdgeNASError):
            ship(newer, local, "digits")
        cuts.served()
        if not cuts.steps.hit:
            break
        cut += 1
        live = cuts.ship(newer)
    seen = cuts.steps.seen
    assert cut == len(seen) >= 20
    for event, path in (("os.symlink", ".current-new"), ("os.rename", ".current-new"), ("open", "history.jsonl")):
        assert any(event in step and path in step for step in seen), (event, path)
    removed = [step for step in seen if "os.remove" in step and "/.staging-" in step]
    assert any(step.endswith("/model.tflite") for step in removed), "the files of what is pruned, one by one"
    assert len(list((cuts.model / "releases").iterdir())) == 2, "the live one, the one before"
    assert not list(cuts.model.glob(".staging-*"))


def test_no_cut_loses_what_a_rollback_goes_back_to(
    local: Device, inside: Inside, bundle: Bundle, rewritten: Callable[..., Bundle], tmp_path: Path
) -> None:
    """Cut anywhere, the same call makes the second of three releases live, as was meant, and the next one the first."""
    cuts, cut = Cuts(local, inside, bundle, rewritten, tmp_path), 0
    while True:
        first, second, third = (cuts.ship(cuts.another(), keep=3) for _ in range(3))
        cuts.allowed = {second, third}
        with cuts.steps.until(cut + 1, end), contextlib.suppress(EdgeNASError):
            rollback(local, "digits")
        cuts.served()
        if not cuts.steps.hit:
            break
        cut += 1
        assert rollback(local, "digits").active == second
        cuts.allowed = {first, second}
        assert rollback(local, "digits").active == first
        assert cuts.served() == first
    assert cut == len(cuts.steps.seen) >= 4, "the lock, the link, its rename, the note"


def test_what_was_cut_before_it_was_noted_is_gone_back_to(
    local: Device, inside: Inside, bundle: Bundle, rewritten: Callable[..., Bundle], tmp_path: Path
) -> None:
    """Another release follows it, not the same command."""
    cuts = Cuts(local, inside, bundle, rewritten, tmp_path)
    first, second = cuts.ship(cuts.another(), keep=3), cuts.another()
    cuts.allowed = {first, second.manifest.release}
    with cuts.steps.until("history.jsonl", end), pytest.raises(EdgeNASError, match="the agent ended"):
        ship(second, local, "digits", keep=3)
    assert cuts.served() == second.manifest.release
    cuts.ship(cuts.another(), keep=3)
    assert [rollback(local, "digits").active for _ in range(2)] == [second.manifest.release, first]
