"""What the latency tables say of a bundle's precision: int8 is not the faster one on every device."""

from collections.abc import Iterator
from dataclasses import dataclass

from edgenas.deploy import Bundle
from edgenas.errors import EdgeNASError
from edgenas.latency.table import Identity, LatencyTable, table_names
from edgenas.latency.table.mixed import MIXED, fastest_mix


@dataclass(frozen=True)
class Faster:
    """Another precision in which a network is predicted to run faster on the device it was searched for.

    Attributes:
        precision: the other one; "mixed" where layers of both are the fastest.
        table: the latency table that says so; with a mix, that of the precision that the bundle has not.
        latency_ms, latency_interval_ms: predicted; no interval for a mix, which no certificate is for.
    """

    precision: str
    table: str
    latency_ms: float
    latency_interval_ms: tuple[float, float] | None


def faster_precision(bundle: Bundle) -> Faster | None:
    """The other precision, or a mix of both, where tables of the same device, runtime and threads say for sure that it
    is faster.

    For sure: nothing speaks against a table, and the whole of its interval lies below the bundle's own; a mix lies
    below both. None where that is not so, or where there is no such table.
    """
    used, own = bundle.manifest.table, bundle.manifest.predicted.latency_interval_ms
    if used is None or own is None:
        return None
    best, mix = None, None
    for name, table in _tables_beside(used.identity):
        try:
            middle = float(table.estimate_ms([bundle.architecture])[0])
            low, high = (float(end[0]) for end in table.interval_ms([bundle.architecture]))
        except EdgeNASError:  # of another space: it says nothing of this network
            continue
        if high < own[0] and (best is None or middle < best.latency_ms):
            best = Faster(table.precision, name, middle, (low, high))
        mixed_ms = _mixed_ms(bundle, used.name, table)
        if mixed_ms is not None and mixed_ms < min(own[0], low) and (mix is None or mixed_ms < mix.latency_ms):
            mix = Faster(MIXED, name, mixed_ms, None)
    return mix or best


def _tables_beside(identity: Identity) -> Iterator[tuple[str, LatencyTable]]:
    """The tables, with their names, of the same device, runtime and threads, but another precision."""

    def setting(of: Identity) -> tuple[object, ...]:
        return of.device, of.runtime, of.runtime_version, of.threads, of.cores

    for name in table_names():
        try:
            table = LatencyTable.load(name)
        except EdgeNASError:  # spoiled
            continue
        other = table.identity.precision != identity.precision
        if other and setting(table.identity) == setting(identity) and table.doubt is None:
            yield name, table


def _mixed_ms(bundle: Bundle, own: str, other: LatencyTable) -> float | None:
    """What a mix of the precisions of two tables is predicted to take; None where it does not pay."""
    try:
        tables = LatencyTable.load(own), other
        int8, float32 = sorted(tables, key=lambda table: table.precision == "float32")
        mix = fastest_mix(int8, float32, bundle.architecture)
    except EdgeNASError:  # the bundle's table is gone, or it branches
        return None
    return mix.latency_ms if mix.pays else None
