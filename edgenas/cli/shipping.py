"""edgenas ship, rollback, deployed, verify."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edgenas.cli.printing import json_option, print_json, print_pairs, print_table, progress_bars, stderr, stdout
from edgenas.errors import CheckFailedError, DeviceError, InputError


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("device", required=False)
@click.option("--as", "name", required=True, help="The model's name on the device.")
@click.option("--table", help="The latency table to hold the device to.")
@click.option("--precision", type=click.Choice(["float32", "int8", "mixed"]), help="Which of the bundle's models.")
@click.option("--to", "pattern", help="Instead of DEVICE: all whose names match, such as 'pi-*', or 'pi-1,pi-2'.")
@click.option("--canary", type=click.IntRange(0), default=1, show_default=True, help="So many of them first.")
@click.option("--wave", type=click.IntRange(1), default=4, show_default=True, help="Then so many at a time.")
@click.option("--max-failures", type=click.IntRange(0), default=0, show_default=True, help="More: no further device.")
@click.option("--keep", type=click.IntRange(2), default=2, show_default=True, help="Releases that stay on a device.")
@click.option("--to-app", metavar="PACKAGE", help="Phones: into the own files of this debuggable app.")
@click.option("--dry-run", is_flag=True, help="Send, verify and measure, but do not switch.")
@click.option("--pause", metavar="UNIT", help="Stop this systemd unit while it measures; the device starts it again.")
@click.option("--pause-command", metavar="COMMAND", help="Instead: what stops the work there ...")
@click.option("--resume-command", metavar="COMMAND", help="... and what starts it again.")
@click.option("--require-promise", is_flag=True, help="Go live only where the table's promise is judged, and kept.")
@json_option
def ship(
    bundle: Path,
    device: str | None,
    name: str,
    table: str | None,
    precision: str | None,
    pattern: str | None,
    canary: int,
    wave: int,
    max_failures: int,
    keep: int,
    to_app: str | None,
    dry_run: bool,
    pause: str | None,
    pause_command: str | None,
    resume_command: str | None,
    require_promise: bool,
    as_json: bool,
) -> None:
    """Send BUNDLE to DEVICE, verify and measure it there, and make it live.

    If anything fails the model before stays live. What was cut goes on with the same command. With --to it goes to
    many devices: those that were off catch up with the same command later.

    \b
    Example: edgenas ship studies/shoes/bundles/3f2a9c0b1d4e pi --as shoes
             edgenas ship studies/shoes/bundles/3f2a9c0b1d4e phone --as shoes --to-app com.example.shoes
    """
    if (device is None) == (pattern is None):
        raise InputError("Name a DEVICE, or several with --to 'PATTERN'.")
    if pattern is None:
        _refuse_options_of_fleets()
    asked = (pause, pause_command, resume_command)
    if pattern is not None:
        if any(asked):
            raise InputError("--pause and --pause-command are of one device.")
        if table is not None:
            raise InputError("--table is of one device; with --to each is held to its own table.")
        from edgenas.deploy.fleet import Rollout

        rollout = Rollout(canary, wave, max_failures, keep, precision, to_app, dry_run, require_promise)
        _ship_to_fleet(bundle, pattern, name, rollout, as_json)
        return
    from edgenas.deploy.pausing import Pause
    from edgenas.workflow import ship_bundle

    stopped = Pause(*asked) if any(asked) else None
    with progress_bars() as progress:
        shipped = ship_bundle(
            bundle, str(device), name, table=table, precision=precision, keep=keep, to_app=to_app, dry_run=dry_run,
            require_promise=require_promise, pause=stopped, progress=progress,
        )  # fmt: skip
    print_json(dataclasses.asdict(shipped)) if as_json else print_shipped(shipped)


def _refuse_options_of_fleets() -> None:
    context = click.get_current_context()
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("canary", "wave", "max_failures")
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    ]
    if given:
        raise InputError(f"{' and '.join(given)}: that is for several devices. Name them with --to 'PATTERN'.")


def _ship_to_fleet(bundle: Path, pattern: str, name: str, rollout: Any, as_json: bool) -> None:
    from edgenas.workflow import ship_to_fleet

    def told(outcome: Any) -> None:
        stderr.print(f"{outcome.device}: {outcome.state}", markup=False)

    with _interruptible() as interrupted:
        outcomes = ship_to_fleet(bundle, pattern, name, rollout, told, interrupted)
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in _STATES}
    if as_json:
        print_json({"devices": [dataclasses.asdict(outcome) for outcome in outcomes], "counts": counts})
    else:
        print_table(("device", "state", "measured ms", "why"), [_row(outcome) for outcome in outcomes])
        stdout.print(", ".join(f"{number} {state}" for state, number in counts.items() if number), markup=False)
    _judge(counts, outcomes)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, instead of ending all where it is; the next one does that."""
    interrupted = threading.Event()

    def first(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        interrupted.set()
        stderr.print("Interrupted: no further device is tried; those under way stop at their next step.", markup=False)

    before = signal.signal(signal.SIGINT, first)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


_STATES = ("changed", "would change", "ok", "failed", "rolled back", "off", "interrupted", "not tried")


def _row(outcome: Any) -> tuple[str, ...]:
    shipped = outcome.shipped
    return (
        outcome.device,
        outcome.state,
        "-" if shipped is None else f"{shipped.latency_ms['median']:.3f}",
        outcome.detail,
    )


def _judge(counts: dict[str, int], outcomes: Sequence[Any]) -> None:
    """Raise where not every device is well."""
    if counts["interrupted"]:
        raise KeyboardInterrupt
    if counts["failed"] or counts["rolled back"] or counts["not tried"]:
        raise CheckFailedError(
            f"{counts['failed'] + counts['rolled back']} of {len(outcomes)} devices failed, {counts['not tried']} were "
            "not tried. Why, and what is live there, stands beside each."
        )
    if counts["off"]:
        off = ", ".join(outcome.device for outcome in outcomes if outcome.state == "off")
        raise DeviceError(f"Off: {off}. The same command catches up when they are back.")


def print_shipped(shipped: Any) -> None:
    """What runs on the device now, for people."""
    times = shipped.latency_ms
    measured = f"median {times['median']:.3f} ms, p90 {times['p90']:.3f} ms"
    if shipped.normalised_ms is not None:
        measured += f"; at the table's machine speed {shipped.normalised_ms:.3f} ms"
    signed = next((check.detail for check in shipped.checks if check.name == "signature"), "not checked")
    busy = next((check.detail for check in shipped.checks if check.name == "promise"), "")
    pairs = {
        "live" if not shipped.dry_run else "dry run": f"{shipped.name} release {shipped.active} on {shipped.device}",
        "before": _before(shipped),
        "signature": signed,
        "agreement": next((check.detail for check in shipped.checks if check.name == "agreement"), "no samples")
        if shipped.agreement_on_device is None
        else f"{shipped.agreement_on_device:.1%} of the samples get the host's class on the device",
        "measured": measured,
        "predicted": "-"
        if shipped.predicted_ms is None
        else f"{shipped.predicted_ms:.3f} ms: promise {shipped.promise}",
    }
    if shipped.promise == "not judged":
        pairs["promise"] = busy
    print_pairs(pairs)


def _before(shipped: Any) -> str:
    if shipped.previous is None:
        return "none"
    if shipped.previous == shipped.release:
        return "the same release: it was live already"
    return f"release {shipped.previous}, kept for rollback"


@click.command()
@click.argument("device")
@click.argument("name")
@click.option("--to", type=click.IntRange(1), help="A release that the device still keeps.  [default: the one before]")
@click.option("--to-app", metavar="PACKAGE", help="Phones: in the own files of this debuggable app.")
@json_option
def rollback(device: str, name: str, to: int | None, to_app: str | None, as_json: bool) -> None:
    """Make the release of model NAME live that was live before.

    Cut anywhere, the same command goes back to the same release: on a board; on a phone if it was cut before its note.

    \b
    Example: edgenas rollback pi shoes
    """
    from edgenas.deploy import rollback as roll_back
    from edgenas.device import Device

    done = roll_back(Device.load(device), name, to, to_app=to_app)
    if as_json:
        print_json({"device": device, "name": name, "active": done.active, "previous": done.previous})
    else:
        before = "none" if done.previous is None else f"release {done.previous}"
        stdout.print(f"{name} on {device}: release {done.active} is live again, before: {before}.", markup=False)


@click.command()
@click.argument("device")
@click.option("--measure", is_flag=True, help="Check and time each again, in place.")
@click.option("--to-app", metavar="PACKAGE", help="Phones: in the own files of this debuggable app.")
@json_option
def deployed(device: str, measure: bool, to_app: str | None, as_json: bool) -> None:
    """List what runs on DEVICE, since when, and how fast it was then (and is now, with --measure).

    DEVICE may be a pattern, such as 'pi-*' or 'pi-1,pi-2': those that cannot be reached are named.

    \b
    Example: edgenas deployed pi --measure
             edgenas deployed 'pi-*'
    """
    from edgenas.deploy.fleet import readable
    from edgenas.deploy.overview import overview

    devices, unreadable = readable(device)
    with progress_bars() as progress:
        found = overview(devices, measure=measure, to_app=to_app, progress=progress)
    found = dataclasses.replace(found, unreached=found.unreached | unreadable)
    if as_json:
        print_json(dataclasses.asdict(found))
    elif found.models:
        print_table(
            ("device", "name", "release", "before", "since", "study", "ms then", "ms now"),
            [_row_of(model) for model in found.models],
        )
    elif not found.unreached:
        stdout.print(f"Nothing is deployed on {device}.", markup=False)
    wrong = [model.wrong for model in found.models if model.wrong]
    unknown = [*found.unreached.values(), *(model.not_measured for model in found.models if model.not_measured)]
    if wrong:
        raise CheckFailedError(" ".join([*wrong, *unknown]))
    if unknown:
        raise DeviceError(" ".join(unknown))


def _row_of(model: Any) -> tuple[object, ...]:
    record = model.record or {}
    now = "WRONG" if model.wrong else _ms(model.latency_ms_now)
    study, then = str(record.get("study", "-")), _ms(record.get("latency_ms"))
    return (model.device, model.name, model.release or "-", model.previous or "-", model.since or "-", study, then, now)


def _ms(times: Any) -> str:
    median = times.get("median") if isinstance(times, dict) else None
    return f"{median:.3f}" if isinstance(median, int | float) else "-"


@click.command()
@click.argument("device")
@click.argument("name")
@click.option("--bundle", type=click.Path(path_type=Path), help="What was shipped: its samples are run again.")
@click.option("--to-app", metavar="PACKAGE", help="Phones: in the own files of this debuggable app.")
@json_option
def verify(device: str, name: str, bundle: Path | None, to_app: str | None, as_json: bool) -> None:
    """Check the live release of model NAME where it lies: hashes, signature, samples, latency. It changes nothing.

    \b
    Example: edgenas verify pi shoes --bundle studies/shoes/bundles/3f2a9c0b1d4e
    """
    from edgenas.deploy import Bundle
    from edgenas.deploy import verify as check
    from edgenas.device import Device

    source = None if bundle is None else Bundle.load(bundle)
    target = Device.load(device)
    with progress_bars() as progress:
        found = check(target, name, bundle=source, to_app=to_app, progress=progress)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    agreement = found.agreement_on_device
    busy = " (the device is busy)" if found.steadiness == "disturbed" else ""
    trusted = "the device trusts no key" if target.address.kind != "adb" else "a phone checks hashes only"
    print_pairs(
        {
            "whole": f"{name} release {found.release} on {device}",
            "signature": f"by the trusted key {found.signed_by}" if found.signed_by else trusted,
            "agreement": "not run (--bundle)" if agreement is None else f"{agreement:.1%} of the samples",
            "measured": f"median {_ms(found.latency_ms)} ms now{busy}, "
            f"{_ms(found.latency_ms_when_shipped)} ms when shipped",
        }
    )
