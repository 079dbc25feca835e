"""One bundle to many devices: a few first, then waves, and a stop before too many have failed."""

import fnmatch
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from edgenas.deploy.bundle import Bundle
from edgenas.deploy.live import refuse_app
from edgenas.deploy.promise import files_beside
from edgenas.deploy.shipped import Shipped
from edgenas.deploy.shipping import ship
from edgenas.device import Device, device_names
from edgenas.errors import EdgeNASError, InputError, UnreachableError, WentBackError, near
from edgenas.latency.profiling.anchors import anchors_of
from edgenas.latency.table import LatencyTable

State = Literal["changed", "would change", "ok", "failed", "rolled back", "off", "interrupted", "not tried"]
Told = Callable[["Outcome"], None]
_THIS_MACHINE = "local"
TableOf = Callable[[Device], LatencyTable | None]


@dataclass(frozen=True)
class Outcome:
    """What became of one device.

    Attributes:
        state: "changed" (the new release is live now), "would change" (a dry run found nothing against it), "ok" (it
            was live already, and is well), "failed" (refused, or lost on the way), "rolled back" (it was live for a
            moment; the old one is again), "off" (never reached), "interrupted" (before the switch, or before it
            was tried), "not tried" (the rollout had stopped).
        detail: why, in a sentence; "" where all is well.
        shipped: all that was measured; None where it did not come to that.
    """

    device: str
    state: State
    detail: str = ""
    shipped: Shipped | None = None


@dataclass(frozen=True)
class Rollout:
    """How a bundle goes to many devices.

    Attributes:
        canary: so many devices first, one after the other; the others follow when all of them are well.
        wave: so many at a time after that.
        max_failures: more failures than that, and no further device is tried. Devices that are off are no failures.
        keep: releases that stay on each device.
        precision: which of the bundle's models; None: the one it was made for.
        to_app: of phones: a debuggable app's package, whose own files the model goes into.
        dry_run: do everything but the switch.
        require_promise: a device takes it only where its table's promise was judged, and is kept.
    """

    canary: int = 1
    wave: int = 4
    max_failures: int = 0
    keep: int = 2
    precision: str | None = None
    to_app: str | None = None
    dry_run: bool = False
    require_promise: bool = False

    def __post_init__(self) -> None:
        if self.canary < 0 or self.wave < 1 or self.max_failures < 0 or self.keep < 2:
            raise InputError(
                f"A rollout of canary {self.canary}, wave {self.wave}, max failures {self.max_failures} and keep "
                f"{self.keep} cannot be: expected at least 0, 1, 0 and 2."
            )


def chosen(pattern: str) -> list[Device]:
    """The devices whose names match a pattern such as "pi-*", or several with commas between.

    `local`, which came with EdgeNAS and is this machine itself, is none of those that "*" means: it has to be named.

    Raises:
        InputError: one matches none, or one of their files cannot be read.
    """
    devices, unreadable = readable(pattern)
    if unreadable:
        raise InputError(" ".join(unreadable.values()))
    return devices


def readable(pattern: str) -> tuple[list[Device], dict[str, str]]:
    """As `chosen`: those whose files can be read, and why the others cannot, by name.

    Raises:
        InputError: one matches none, or none can be read.
    """
    names = device_names()
    boards = [name for name in names if name != _THIS_MACHINE]
    found: dict[str, None] = {}
    for part in map(str.strip, pattern.split(",")):
        matching = [part] if part in names else fnmatch.filter(boards, part)
        if not matching:
            raise InputError(f"No device is called {part!r}. {near(part, names)}")
        found |= dict.fromkeys(matching)
    devices: list[Device] = []
    unreadable: dict[str, str] = {}
    for name in found:
        try:
            devices.append(Device.load(name))
        except InputError as error:
            unreadable[name] = str(error)
    if not devices:
        raise InputError(" ".join(unreadable.values()))
    return devices, unreadable


def ship_to_all(
    bundle: Bundle,
    devices: Sequence[Device],
    name: str,
    rollout: Rollout,
    *,
    table_of: TableOf = lambda device: None,
    told: Told = lambda outcome: None,
    interrupted: threading.Event | None = None,
) -> list[Outcome]:
    """Ship a bundle to devices: the canaries, then the others in waves; the same call catches up with what was off.

    Args:
        bundle: what to ship.
        devices: where to, in this order.
        name: of the model on all of them.
        rollout: how.
        table_of: the latency table to hold each device to.
        told: called with each outcome as it comes.
        interrupted: set by whoever wants it to end: no further device is tried, and those under way stop at their next
            step, unless they have come to the switch.

    Raises:
        InputError: the bundle has no model of that precision, or a device is no phone and has no apps.

    Returns:
        one outcome a device, in their order.
    """
    tables = _tables(bundle, devices, rollout, table_of)
    stopping = interrupted or threading.Event()
    outcomes: dict[str, Outcome] = {}

    def note(outcome: Outcome) -> None:
        outcomes[outcome.device] = outcome
        told(outcome)

    def take(wave: Sequence[Device]) -> None:
        with ThreadPoolExecutor(max(1, len(wave))) as hands:
            for outcome in hands.map(
                lambda device: _ship(bundle, device, name, tables[device.name], rollout, stopping), wave
            ):
                note(outcome)

    def stop(most: int) -> str:
        failed = _count(outcomes, "failed", "rolled back")
        return "not tried" if stopping.is_set() else f"stopped after {failed} failed" if failed > most else ""

    waiting = list(devices)
    # A canary that is off is none.
    while waiting and _count(outcomes, "changed", "would change", "ok") < rollout.canary and not stop(0):
        take([waiting.pop(0)])
    why = stop(0)
    while waiting and not why:
        wave, waiting = waiting[: rollout.wave], waiting[rollout.wave :]
        take(wave)
        why = stop(rollout.max_failures)
    for device in waiting:
        note(Outcome(device.name, "interrupted" if stopping.is_set() else "not tried", why))
    return [outcomes[device.name] for device in devices]


def _tables(
    bundle: Bundle, devices: Sequence[Device], rollout: Rollout, table_of: TableOf
) -> dict[str, LatencyTable | None]:
    """The table of each device, by name; what cannot be shipped there at all is refused before any is tried."""
    bundle.model_of(rollout.precision or bundle.manifest.precision)
    for device in devices:
        refuse_app(device, rollout.to_app)
    tables = {device.name: table_of(device) for device in devices}
    for table in [None, *tables.values()]:
        files_beside(table, [] if table is None else anchors_of(table))  # converted once, not by each thread
    return tables


def _count(outcomes: dict[str, Outcome], *states: State) -> int:
    return sum(outcome.state in states for outcome in outcomes.values())


class _StoppedError(Exception):
    """Raised between two steps of a shipment."""


def _ship(
    bundle: Bundle,
    device: Device,
    name: str,
    table: LatencyTable | None,
    rollout: Rollout,
    stopping: threading.Event,
) -> Outcome:
    reached = False

    def progress(what: str, done: int, total: int) -> None:
        nonlocal reached
        reached = True
        if stopping.is_set():
            raise _StoppedError

    try:
        shipped = ship(
            bundle, device, name, table=table, precision=rollout.precision, keep=rollout.keep, to_app=rollout.to_app,
            dry_run=rollout.dry_run, require_promise=rollout.require_promise, progress=progress,
        )  # fmt: skip
    except _StoppedError:
        return Outcome(device.name, "interrupted", "stopped before the switch")
    except UnreachableError as error:  # lost on the way: perhaps the model brought it down
        return Outcome(device.name, "failed" if reached else "off", str(error))
    except WentBackError as error:
        return Outcome(device.name, "rolled back", str(error))
    except EdgeNASError as error:
        return Outcome(device.name, "failed", str(error))
    except Exception as error:  # noqa: BLE001 - whatever befalls one device, the others' outcomes are told
        return Outcome(device.name, "failed", f"{device.name}: {type(error).__name__}: {error}")
    if shipped.previous == shipped.release:
        return Outcome(device.name, "ok", "", shipped)
    return Outcome(device.name, "would change" if rollout.dry_run else "changed", "", shipped)
