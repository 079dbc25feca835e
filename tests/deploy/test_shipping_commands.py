"""`ship` and `deployed` as they are typed."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgenas.cli.main import cli
from edgenas.deploy import Bundle, deployed, ship, verify
from edgenas.device import Device
from edgenas.errors import CheckFailedError, DeviceError, InputError
from tests.deploy.inside import Inside


@pytest.fixture
def here(local: Device, inside: Inside) -> Device:
    """The device `here` of a project in the current folder."""
    local.save()
    return local


def test_on_the_command_line(here: Device, bundle: Bundle) -> None:
    words = ["ship", str(bundle.folder), "here", "--as", "digits"]
    for option in ("--canary", "--wave", "--max-failures"):
        refused = CliRunner().invoke(cli, [*words, option, "1"])
        assert isinstance(refused.exception, InputError)
        assert str(refused.exception) == f"{option}: that is for several devices. Name them with --to 'PATTERN'."
    assert deployed(here) == []
    assert "before     none" in CliRunner().invoke(cli, words).stdout
    assert "before     the same release: it was live already" in CliRunner().invoke(cli, words).stdout


def test_what_cannot_be_measured_does_not_hide_the_others(
    here: Device, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("busy", "good"):
        ship(bundle, here, name)
    real = verify

    def check(device: Device, name: str, **more: Any) -> Any:
        if name == "busy":
            raise DeviceError("here: too disturbed to measure.")
        return real(device, name, **more)

    monkeypatch.setattr("edgenas.deploy.overview.verify", check)
    done = CliRunner().invoke(cli, ["deployed", "here", "--measure", "--json"])
    assert type(done.exception) is DeviceError and "too disturbed" in str(done.exception)
    busy, good = json.loads(done.stdout)["models"]
    assert (busy["wrong"], busy["not_measured"], busy["latency_ms_now"]) == (
        None,
        "here: too disturbed to measure.",
        None,
    )
    assert good["not_measured"] is None and good["latency_ms_now"]["median"] > 0


def test_what_is_damaged_is_shown_beside_what_is_well(here: Device, bundle: Bundle) -> None:
    for name in ("bad", "good"):
        ship(bundle, here, name)
    damaged = Path(here.folder, "models") / "bad" / "current" / "labels.txt"
    damaged.unlink()  # both names hold links to one file
    damaged.write_text("other\n")
    done = CliRunner().invoke(cli, ["deployed", "here", "--measure", "--json"])
    assert isinstance(done.exception, CheckFailedError) and "labels.txt: expected sha256" in str(done.exception)
    bad, good = json.loads(done.stdout)["models"]
    assert "labels.txt" in bad["wrong"] and bad["latency_ms_now"] is None
    assert good["wrong"] is None and good["latency_ms_now"]["median"] > 0


@pytest.mark.parametrize("measure", [["--measure"], []])
def test_one_of_which_it_cannot_be_told_what_is_live_hides_no_other(
    here: Device, bundle: Bundle, measure: list[str]
) -> None:
    for name in ("bad", "good"):
        ship(bundle, here, name)
    current = Path(here.folder, "models", "bad", "current")
    current.unlink()
    current.mkdir()
    done = CliRunner().invoke(cli, ["deployed", "here", *measure, "--json"])
    assert isinstance(done.exception, CheckFailedError) and "bad/current is no link to" in str(done.exception)
    bad, good = json.loads(done.stdout)["models"]
    assert bad["release"] is None and "bad/current is no link to" in bad["wrong"]
    assert good["wrong"] is None and good["release"] == bundle.manifest.release
    assert (good["latency_ms_now"] is not None) == bool(measure)
    assert "WRONG" in CliRunner().invoke(cli, ["deployed", "here"]).stdout
    assert verify(here, "good", measure=False).release == bundle.manifest.release
    for dry_run in (True, False):
        with pytest.raises(CheckFailedError, match="bad/current is no link to"):
            ship(bundle, here, "bad", dry_run=dry_run)
