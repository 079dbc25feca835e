"""Devices that are busy while they are measured, as those in the field are: shipped to and verified all the same.

What is not known is not judged: no promise, and no limit but where the whole interval is over it.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import edgenas.files as files
from edgenas.cli.main import cli
from edgenas.deploy import Bundle, deployed, ship, verify
from edgenas.deploy.fleet import Rollout, ship_to_all
from edgenas.deploy.promise import Measured, Promise, measured_beside
from edgenas.device import Device, Limits, Phone
from edgenas.errors import CheckFailedError
from edgenas.latency.profiling.rounds import median_interval
from edgenas.latency.steadiness import Steadiness
from edgenas.latency.table import LatencyTable
from tests.deploy.inside import Inside
from tests.deploy.pocket import Pocket
from tests.deploy.test_phone_shipping import table_of as table_of_phone
from tests.deploy.test_promise import HERE, IDENTITY, anchors, certified, held, rounds
from tests.latency.test_phone import timing

TableOf = Callable[..., LatencyTable]
Rewritten = Callable[..., Bundle]
BUSY = Steadiness(True, 0.4, 0.3, "Now: its processor is 100% busy.")
WHY = (
    "the device is busy (disturbed: 40% of the visits lost their core to another process, 30% had a reference model "
    "beside them that had moved. Now: its processor is 100% busy.)"
)


@pytest.fixture
def busy(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> Inside:
    """Boards on which four visits in ten lose their core, and nothing is told before it is measured as busy."""
    monkeypatch.setattr("edgenas.device.Agent.health", lambda self: BUSY.busy)
    inside.lost, inside.moved = 0.4, 0.3
    return inside


@pytest.fixture
def busy_pocket(pocket: Pocket, monkeypatch: pytest.MonkeyPatch) -> Pocket:
    """A phone on which some inferences of each process take far longer than the others."""
    monkeypatch.setattr("edgenas.latency.profiling.phone.PhoneBench.visit", lambda *_, **__: timing(10.0, True))
    monkeypatch.setattr(Phone, "health", lambda self: BUSY.busy)
    return pocket


def detail(shipped: Any, name: str = "promise") -> str:
    (check,) = (check for check in shipped.checks if check.name == name)
    assert check.passed is None or name == "limit"
    return str(check.detail)


# What was measured


def test_the_interval_of_a_disturbed_device_is_wider_by_what_passes_differ_or_the_reference_moved() -> None:
    def found(half_width: float, slowed: float, steadiness: Steadiness = BUSY) -> Measured:
        made = rounds(12.0, 2.0)
        own = dataclasses.replace(made.ratios[0], half_width=half_width)  # type: ignore[type-var]
        made = dataclasses.replace(made, ratios=(own, made.ratios[1]), slowed=slowed, steadiness=steadiness)
        return measured_beside(HERE, certified(IDENTITY, 80.0), anchors(0.02), made)

    low, high = (end / 1000 for end in median_interval(np.array([90.0, 100.0, 130.0])))
    for half_width, slowed, wider in ((0.25, 0.1, 1.25), (0.1, 0.6, 1.6)):
        measured = found(half_width, slowed)
        assert measured.interval_ms == pytest.approx((low / wider, high * wider))
        assert (measured.steadiness, measured.normalised_ms) == (BUSY, pytest.approx(0.12))
    assert found(0.25, 0.6, Steadiness()).interval_ms == (low, high)


# A board


def test_it_goes_live_on_a_busy_board_and_nothing_is_judged(
    local: Device, busy: Inside, bundle: Bundle, table_of: TableOf
) -> None:
    for predicted_us in (0.01, 1e6):  # broken and kept, were it judged
        shipped = ship(bundle, local, "digits", table=table_of(local, predicted_us))
        assert shipped.active == bundle.manifest.release
        assert (shipped.promise, shipped.promise_kept, shipped.steadiness) == ("not judged", None, "disturbed")
        assert shipped.normalised_ms == pytest.approx(0.04), "it is told all the same"
        assert detail(shipped) == f"not judged: {WHY}"
        told = files.as_mapping(shipped)
        assert (told["steadiness"], told["promise"], told["promise_kept"]) == ("disturbed", "not judged", None)
    asked = [params["busy"] for params in busy.params_of("measure")]
    assert asked == [False] * 3 + [True] * 3 + [False] * 3 + [True] * 3
    assert deployed(local)[0].release == bundle.manifest.release


def test_on_a_steady_board_it_is_judged(local: Device, inside: Inside, bundle: Bundle, table_of: TableOf) -> None:
    shipped = ship(bundle, local, "digits", table=table_of(local, 1e6))
    assert (shipped.promise, shipped.steadiness) == ("kept", "steady")
    assert files.as_mapping(shipped)["steadiness"] == "steady"


def test_without_a_promise_a_busy_board_is_said_to_be(local: Device, busy: Inside, bundle: Bundle) -> None:
    shipped = ship(bundle, local, "digits")
    assert (shipped.promise, shipped.steadiness) == ("unbacked", "disturbed")
    assert detail(shipped) == "no latency table was given"
    assert len(busy.params_of("single")) == 3
    times = np.array(busy.runs_us(100)[40:]) / 1000  # those that kept their core
    low, high = median_interval(times)
    assert shipped.latency_ms["median"] == pytest.approx(np.median(times))
    assert shipped.latency_interval_ms == pytest.approx((low / 1.3, high * 1.3)), "the reference moved by 0.3"


def test_verify_says_how_steady_it_was(local: Device, inside: Inside, bundle: Bundle) -> None:
    ship(bundle, local, "digits")
    assert verify(local, "digits").steadiness == "steady"
    assert verify(local, "digits", measure=False).steadiness is None
    local.save()
    words = ["verify", "here", "digits"]
    assert "busy" not in CliRunner().invoke(cli, words).stdout
    inside.moved = 0.3
    assert verify(local, "digits").steadiness == "disturbed"
    assert "ms now (the device is busy), 0.040" in " ".join(CliRunner().invoke(cli, words).stdout.split())
    assert json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)["steadiness"] == "disturbed"


# Limits


@pytest.mark.parametrize(
    ("low_ms", "predicted_ms", "steadiness", "over"),
    [
        (3.0, None, BUSY, True),  # nothing says that it could be faster
        (3.0, 2.5, BUSY, True),  # nor does this table
        (3.0, 1.9, BUSY, False),  # the interval reaches down to what is predicted
        (3.0, 2.0, BUSY, False),
        (1.9, 2.5, BUSY, False),  # and never less far than what was measured
        (3.0, 1.9, Steadiness(), True),  # of a steady device it does not
    ],
)
def test_it_is_over_the_limit_only_where_the_whole_interval_is(
    bundle: Bundle, low_ms: float, predicted_ms: float | None, steadiness: Steadiness, over: bool
) -> None:
    shipment = held(bundle, 2.0, None)
    shipment._promise = Promise(predicted_ms, None, "why")
    measured = Measured(4.0, 4.5, (low_ms, 5.0), None, steadiness)
    if over:
        low = min(3.0, predicted_ms or 3.0) if steadiness.disturbed else 3.0
        with pytest.raises(CheckFailedError, match=rf"slower than its limit: 4 ms measured \({low:g} to 5\)"):
            shipment._hold_to_limit(measured)
    else:
        shipment._hold_to_limit(measured)
    assert [(check.name, check.passed) for check in shipment._checks] == [("limit", not over)]


def test_a_table_that_says_it_is_fast_enough_is_believed_on_a_busy_board(
    local: Device, busy: Inside, bundle: Bundle, table_of: TableOf
) -> None:
    limited = dataclasses.replace(local, limits=Limits(max_latency_ms=0.03))  # it takes 0.04
    assert ship(bundle, limited, "digits", table=table_of(local, 29.0)).active == bundle.manifest.release
    with pytest.raises(CheckFailedError, match=r"slower than its limit: 0\.04 ms measured \(0\.031 to 0\.04\)"):
        ship(bundle, limited, "digits", table=table_of(local, 31.0))
    busy.lost = busy.moved = 0.0
    with pytest.raises(CheckFailedError, match=r"slower than its limit: 0\.04 ms measured \(0\.04 to 0\.04\)"):
        ship(bundle, limited, "digits", table=table_of(local, 29.0))


# A promise that is required


@pytest.mark.parametrize(
    ("lost", "predicted_us", "said"),
    [
        (0.4, 1e6, f"not judged: {WHY}"),
        (0.0, 0.01, "broken: 0.04 ms in the table's units, "),
        (0.0, None, "unbacked: no latency table was given"),
    ],
    ids=["busy", "broken", "unbacked"],
)
def test_a_promise_that_is_required_and_not_kept_refuses(
    local: Device, busy: Inside, bundle: Bundle, table_of: TableOf, lost: float, predicted_us: float | None, said: str
) -> None:
    table = None if predicted_us is None else table_of(local, predicted_us)
    busy.lost, busy.moved = lost, 0.0 if lost == 0 else 0.3
    for dry_run in (True, False):
        with pytest.raises(CheckFailedError) as caught:
            ship(bundle, local, "digits", table=table, require_promise=True, dry_run=dry_run)
        assert str(caught.value).startswith(f"here: the promise is required and is {said}")
        assert str(caught.value).endswith("Nothing was put live: 'digits' has no release on here.")
        assert caught.value.exit_code == 4
    assert deployed(local) == []
    assert not list(Path(local.folder).rglob("model.tflite"))


def test_a_promise_that_is_required_and_kept_goes_live(
    local: Device, inside: Inside, bundle: Bundle, table_of: TableOf
) -> None:
    shipped = ship(bundle, local, "digits", table=table_of(local, 1e6), require_promise=True)
    assert (shipped.active, shipped.promise) == (bundle.manifest.release, "kept")


def test_the_old_model_stays_where_the_new_one_is_not_judged(
    local: Device, busy: Inside, bundle: Bundle, rewritten: Rewritten, table_of: TableOf, tmp_path: Path
) -> None:
    ship(bundle, local, "digits")
    with pytest.raises(CheckFailedError, match=f"still live: release {bundle.manifest.release} "):
        ship(rewritten(bundle, tmp_path), local, "digits", table=table_of(local, 1e6), require_promise=True)
    assert deployed(local)[0].release == bundle.manifest.release


def test_on_the_command_line(local: Device, busy: Inside, bundle: Bundle, table_of: TableOf) -> None:
    local.save()
    table_of(local, 80.0).save(Path("latency_tables/mine.json"))
    words = ["ship", str(bundle.folder), "here", "--as", "digits", "--table", "mine"]
    refused = CliRunner().invoke(cli, [*words, "--require-promise"])
    assert isinstance(refused.exception, CheckFailedError) and deployed(local) == []
    fleet = ["ship", str(bundle.folder), "--to", "here", "--as", "digits", "--require-promise"]
    refused = CliRunner().invoke(cli, fleet)
    assert isinstance(refused.exception, CheckFailedError) and deployed(local) == []
    said = " ".join(CliRunner().invoke(cli, words).stdout.split())
    assert "0.080 ms: promise not judged" in said
    assert f"promise not judged: {WHY}" in said
    told = json.loads(CliRunner().invoke(cli, [*words, "--json"]).stdout)
    assert (told["promise"], told["promise_kept"], told["steadiness"]) == ("not judged", None, "disturbed")


@pytest.mark.parametrize("required", [True, False])
def test_a_fleet_that_is_required_to_keep_its_promise(
    busy: Inside, bundle: Bundle, table_of: TableOf, tmp_path: Path, required: bool
) -> None:
    boards = [Device(f"pi-{number}", "local:", folder=str(tmp_path / f"pi-{number}")) for number in (1, 2)]
    rollout = Rollout(canary=1, max_failures=0, require_promise=required)
    outcomes = ship_to_all(bundle, boards, "digits", rollout)
    assert [outcome.state for outcome in outcomes] == (["failed", "not tried"] if required else ["changed"] * 2)
    if required:
        assert "pi-1: the promise is required and is unbacked" in outcomes[0].detail
    assert [bool(deployed(board)) for board in boards] == [not required] * 2


# A phone


def test_it_goes_live_on_a_busy_phone_and_nothing_is_judged(busy_pocket: Pocket, bundle: Bundle) -> None:
    device = busy_pocket.device()
    for predicted_us in (0.01, 1e6):
        shipped = ship(bundle, device, "digits", table=table_of_phone(device, predicted_us))
        assert (shipped.active, shipped.promise, shipped.promise_kept) == (bundle.manifest.release, "not judged", None)
        assert shipped.steadiness == "disturbed"
        assert detail(shipped).startswith("not judged: the device is busy (disturbed: 100% of the visits lost their ")
        assert detail(shipped).endswith(f"{BUSY.busy})")
    assert verify(device, "digits").steadiness == "disturbed"
    assert deployed(device)[0].release == bundle.manifest.release


def test_a_promise_that_is_required_and_not_judged_refuses_on_a_phone(busy_pocket: Pocket, bundle: Bundle) -> None:
    device = busy_pocket.device()
    with pytest.raises(CheckFailedError, match=r"the promise is required and is not judged: .* Nothing was put live"):
        ship(bundle, device, "digits", table=table_of_phone(device, 1e6), require_promise=True)
    assert deployed(device) == []
    assert not list((busy_pocket.home / "edgenas").rglob("model.tflite"))


def test_a_promise_that_is_required_and_kept_goes_live_on_a_phone(pocket: Pocket, bundle: Bundle) -> None:
    device = pocket.device()
    shipped = ship(bundle, device, "digits", table=table_of_phone(device, 1e6), require_promise=True)
    assert (shipped.promise, shipped.steadiness) == ("kept", "steady")
    assert verify(device, "digits").steadiness == "steady"
    assert deployed(device)[0].release == bundle.manifest.release
