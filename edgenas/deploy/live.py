"""What can be said of a release that is live, on a board as on a phone."""

from dataclasses import dataclass, field
from typing import Any

from edgenas.deploy.agreement import Agreement
from edgenas.deploy.bundle import Bundle
from edgenas.deploy.manifest import FILE
from edgenas.deploy.promise import Measured
from edgenas.device import Device
from edgenas.errors import CheckFailedError, InputError
from edgenas.files import sha256


@dataclass(frozen=True)
class Deployed:
    """A model that is live on a device.

    Attributes:
        name: of the model there.
        release: its number, growing with each one shipped; None: it cannot be told, `wrong` says why.
        previous: the release that `rollback` would make live; None: there is none.
        since: when it was made live (UTC, by the device's clock).
        record: what was known of it when it was shipped.
        wrong: what is not as it was shipped; None: nothing is, or nobody looked.
    """

    name: str
    release: int | None
    previous: int | None
    since: str | None
    record: dict[str, Any] | None
    wrong: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class RolledBack:
    """The release of `name` that is live again, and the one that was before."""

    name: str
    device: str
    active: int
    previous: int | None


@dataclass(frozen=True)
class Verified:
    """A live release, checked in place.

    Attributes:
        signed_by: the trusted key's id; None: the device trusts no key, hashes alone were checked.
        agreement_on_device: share of the samples on which device and host name the same class; None: not run.
        latency_ms: "median" and "p90" now; None: not measured.
        latency_ms_when_shipped: the same on the day.
        steadiness: of the device while it was measured: "steady" or "disturbed"; None: not measured.
    """

    name: str
    device: str
    release: int
    signed_by: str | None
    agreement_on_device: float | None
    latency_ms: dict[str, float] | None
    latency_ms_when_shipped: dict[str, Any] | None
    steadiness: str | None


def refuse_another(device: Device, name: str, release: int, manifest_sha256: str, bundle: Bundle | None) -> None:
    """Raise `CheckFailedError` where what is live is not the bundle."""
    if bundle is not None and manifest_sha256 != sha256(bundle.folder / FILE):
        raise CheckFailedError(
            f"{device.name}: live is release {release} of {name!r}, and the bundle {bundle.folder} is another one "
            f"(release {bundle.manifest.release})."
        )


def threads_in(record: dict[str, Any]) -> int:
    """Of one inference, as a device's record of a release says; 1 where it says nothing that makes sense."""
    threads = record.get("threads")
    return threads if type(threads) is int and 0 < threads < 1000 else 1


def verified(
    device: Device,
    name: str,
    release: int,
    record: dict[str, Any],
    measured: Measured | None,
    signed_by: str | None = None,
    agreement: Agreement | None = None,
) -> Verified:
    """What was found, beside what the record says of the day it was shipped."""
    then = record.get("latency_ms")
    return Verified(
        name=name,
        device=device.name,
        release=release,
        signed_by=signed_by,
        agreement_on_device=None if agreement is None else agreement.share,
        latency_ms=None if measured is None else {"median": measured.median_ms, "p90": measured.p90_ms},
        latency_ms_when_shipped=then if isinstance(then, dict) else None,
        steadiness=None if measured is None else measured.steadiness.grade,
    )


def refuse_app(device: Device, to_app: str | None) -> None:
    """Raise `InputError` where an app is named on what is no phone."""
    if to_app is not None and device.address.kind != "adb":
        raise InputError(f"{device.name} ({device.url}) is no phone: only a phone has apps (--to-app {to_app}).")
