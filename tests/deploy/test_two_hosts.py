"""Two hosts that ship to one device: each says what is so. That it is one at a time: test_end_to_end.py."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import edgenas.files as files
from edgenas.deploy import Bundle, rollback, ship
from edgenas.device import Device
from edgenas.errors import CheckFailedError
from tests.deploy.inside import Inside

Rewritten = Callable[..., Bundle]


def whole(device: Device) -> bool:
    """Every release on the device is what its manifest says, and nothing else is there."""
    model = Path(device.folder) / "models" / "digits"
    for manifest in model.glob("releases/*/manifest.json"):
        expected = json.loads(manifest.read_text())["files"]
        if any(files.sha256(manifest.with_name(name)) != expected[name] for name in ("model.tflite", "labels.txt")):
            return False
    names = {path.name for path in model.iterdir()} - {".lock"}
    return names == {"releases", "current", "history.jsonl"}


@pytest.fixture
def overtaken(inside: Inside) -> Callable[[Callable[[], object]], None]:
    """Has something done by another host while this one waits for the device."""

    def by(other: Callable[[], object]) -> None:
        waiting = [other]
        inside.before["lock"] = lambda: waiting.pop()() if waiting else None

    return by


def test_before_is_what_was_live_when_the_device_was_free(
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path,
    overtaken: Callable[[Callable[[], object]], None],
) -> None:  # fmt: skip
    first, slow = rewritten(bundle, tmp_path), rewritten(bundle, tmp_path, limits={"max_latency_ms": 1e-6})
    second, one = rewritten(bundle, tmp_path), first.manifest.release
    ship(bundle, local, "digits")
    overtaken(lambda: ship(first, local, "digits"))
    with pytest.raises(CheckFailedError, match=f"slower than its limit.*The old model is still live: release {one}"):
        ship(slow, local, "digits")
    overtaken(lambda: rollback(local, "digits"))
    shipped = ship(second, local, "digits")
    assert (shipped.active, shipped.previous) == (second.manifest.release, bundle.manifest.release)
    assert whole(local)


def test_a_rollback_meanwhile_is_no_switch_of_ours(
    local: Device, inside: Inside, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    """Going back waits for nobody who measures: it is for emergencies."""
    ship(bundle, local, "digits")
    ship(rewritten(bundle, tmp_path), local, "digits")
    back: list[int] = []

    def meanwhile(what: str, done: int, total: int) -> None:
        if what == "measuring on the device" and not back:
            back.append(rollback(local, "digits").active)

    one = bundle.manifest.release
    with pytest.raises(
        CheckFailedError, match=f"Release {one} of 'digits' is live: somebody else made it so meanwhile"
    ):
        ship(rewritten(bundle, tmp_path, limits={"max_latency_ms": 1e-6}), local, "digits", progress=meanwhile)
    assert back == [one]
    shipped = ship(rewritten(bundle, tmp_path), local, "digits")
    assert shipped.previous == one
    assert whole(local)
