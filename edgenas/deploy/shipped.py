"""What shipping did, and all that was looked at on the way."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was looked at on the way; `passed` is None where it could not be."""

    name: str
    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Shipped:
    """What shipping did.

    Attributes:
        name, device: the model's name there, and the device's.
        active: the release that is live now; None: none is.
        previous: the release that was live before.
        agreement_on_device: share of the samples on which device and host name the same class; None without samples.
        largest_difference: between their raw outputs.
        release: the bundle's own number.
        latency_ms: "median" and "p90", as the device's clock showed them.
        latency_interval_ms: of the median, coverage 95%.
        normalised_ms: the same latency in the table's milliseconds; None without a table of this device.
        predicted_ms: by the table; without one, by the bundle's.
        limit_ms: what the lower end of that interval had to keep; None: nothing.
        promise: "kept", "broken", "unbacked" where no certified table of this device backs one, or "not judged" where
            the device was too busy to tell.
        promise_kept: the same as true, false or null.
        steadiness: of the device while it was measured: "steady" or "disturbed".
        checks: all that was looked at, in order.
        dry_run: whether everything was done but the switch.
    """

    name: str
    device: str
    active: int | None
    previous: int | None
    agreement_on_device: float | None
    largest_difference: float | None
    release: int
    latency_ms: dict[str, float]
    latency_interval_ms: tuple[float, float]
    normalised_ms: float | None
    predicted_ms: float | None
    limit_ms: float | None
    promise: str
    promise_kept: bool | None
    steadiness: str
    checks: tuple[Check, ...]
    dry_run: bool
