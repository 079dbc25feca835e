"""Two hosts that ship to one device: one of them at a time, and each says what is so."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import edgenas.files as files
from edgenas.deploy import Bundle, rollback, ship
from edgenas.device import Agent, Device
from edgenas.errors import CheckFailedError, DeviceError

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


def test_the_second_is_refused_while_the_first_ships(
    device: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
) -> None:
    first, second = rewritten(bundle, tmp_path), rewritten(bundle, tmp_path)
    ship(bundle, device, "digits")
    refused: list[str] = []

    def meanwhile(what: str, done: int, total: int) -> None:
        if what == "measuring on the device" and not refused:
            with pytest.raises(DeviceError, match=r"the device is being measured by .* since") as caught:
                ship(second, device, "digits")
            refused.append(str(caught.value))

    shipped = ship(first, device, "digits", progress=meanwhile)
    assert refused and "\n" not in refused[0]
    assert (shipped.active, shipped.previous) == (first.manifest.release, bundle.manifest.release)
    assert whole(device)
    assert ship(second, device, "digits").previous == first.manifest.release
    assert whole(device)


@pytest.fixture
def overtaken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something done by another host while this one waits for the device."""

    def by(other: Callable[[], object]) -> None:
        lock, waiting = Agent.lock, [other]

        def late(agent: Agent) -> None:
            if waiting:
                waiting.pop()()
            lock(agent)

        monkeypatch.setattr(Agent, "lock", late)

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
    local: Device, bundle: Bundle, rewritten: Rewritten, tmp_path: Path
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
