"""Bundles to phones with the real adb client and Android's own shell and tools; what a cable does that comes out."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edgenas.files as files
from edgenas.deploy import Bundle, deployed, rollback, ship
from edgenas.deploy.fleet import Rollout, ship_to_all
from edgenas.device import connect
from edgenas.errors import UnreachableError
from edgenas.latency.profiling import rounds
from tests.adb.lab import LabPhone
from tests.deploy.pocket import QUICK_TOOL
from tests.deploy.test_phone_releases import words

Make = Callable[..., LabPhone]


def models(phone: LabPhone) -> Path:
    return phone.home / "edgenas" / "models"


def canaries(phone: LabPhone) -> list[Path]:
    """What a name touched that was executed: the phone's shells begin in its root, and all else is below it."""
    return [path for path in phone.root.rglob("*") if path.name == "canary"]


def test_a_cable_that_comes_out_leaves_the_old_model_and_the_same_command_finishes(
    make_phone: Make, bundle: Bundle, big_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the other phones of the fleet are none the worse."""
    monkeypatch.setattr(rounds, "LEAST_PASSES", 2)
    phones = [make_phone(android=True) for _ in range(2)]
    for phone in phones:
        phone.tool.write_text(QUICK_TOOL)
    devices = [phone.device(f"phone-{number}") for number, phone in enumerate(phones, 1)]
    outcomes = ship_to_all(bundle, devices, "digits", Rollout(canary=1))
    assert [outcome.state for outcome in outcomes] == ["changed", "changed"]
    cut = phones[0]
    model = models(cut) / "digits" / "current" / "model.tflite"
    before = files.sha256(model)
    cut.adbd.cut_after = 200_000
    with pytest.raises(UnreachableError, match=r"(offline|is attached|link broke).*The old model is still") as caught:
        ship(big_bundle, devices[0], "digits")
    assert "\n" not in str(caught.value)
    assert files.sha256(model) == before
    outcomes = ship_to_all(big_bundle, devices, "digits", Rollout(canary=1))
    assert [outcome.state for outcome in outcomes] == ["off", "changed"]
    cut.plug_in()
    assert ship(big_bundle, devices[0], "digits").active == big_bundle.manifest.release
    assert files.sha256(model) == big_bundle.manifest.files["model.tflite"]
    assert not list(cut.root.rglob("*.part")) and not list(models(cut).glob("*/.staging"))
    assert rollback(devices[0], "digits").active == bundle.manifest.release
    assert [found.release for found in deployed(devices[1])] == [big_bundle.manifest.release]


def test_the_canary_is_not_blind(phone: LabPhone) -> None:
    """An argument that nobody quotes is executed where it would be by a fault of EdgeNAS."""
    for number, word in enumerate(("$(touch canary)", "`touch canary`", "; touch canary"), 1):
        phone.server.adb("-s", phone.serial, "shell", f"set -- {word}; cd {phone.home}; true")
        assert canaries(phone) == [phone.root / "canary"], number
        (phone.root / "canary").unlink()


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(words, min_size=1, max_size=3), content=st.binary(max_size=100))
def test_paths_reach_the_phone_as_they_are(phone: LabPhone, tmp_path: Path, parts: list[str], content: bytes) -> None:
    """Whatever a file is called here or there: it arrives under that name, and nothing is executed."""
    parts = [part.replace("/", "_").replace("\0", "_").encode(errors="replace").decode() for part in parts]
    parts = [f"x{part}" if part in (".", "..") else part for part in parts]
    source = tmp_path / "source" / parts[-1]
    source.parent.mkdir(exist_ok=True)
    source.write_bytes(content)
    remote = phone.home / "hostile" / Path(*parts)
    with connect(phone.device()) as connection:
        connection.put(source, str(remote))
        assert remote.read_bytes() == content
        back = tmp_path / "back"
        connection.get(str(remote), back)
        assert back.read_bytes() == content
        said = connection.run(["printf", "<%s>", *parts])
        assert said.stdout == "".join(f"<{part}>" for part in parts)
        connection.run(["rm", "-rf", "--", str(phone.home / "hostile")])
    assert canaries(phone) == []
    assert not (tmp_path / "canary").exists(), "here"
