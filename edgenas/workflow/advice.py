"""What the latency tables say of a bundle's precision: int8 is not the faster one on every device."""

from dataclasses import dataclass

from edgenas.deploy import Bundle
from edgenas.errors import EdgeNASError
from edgenas.latency.table import LatencyTable, table_names


@dataclass(frozen=True)
class Faster:
    """Another precision in which a network is predicted to run faster on the device it was searched for.

    Attributes:
        precision: the other one.
        table: the latency table that says so.
        latency_ms, latency_interval_ms: predicted by it.
    """

    precision: str
    table: str
    latency_ms: float
    latency_interval_ms: tuple[float, float]


def faster_precision(bundle: Bundle) -> Faster | None:
    """The other precision, where a table of the same device, runtime and threads says for sure that it is faster.

    For sure: nothing speaks against that table, and the whole of its interval lies below the bundle's own. None where
    it does not, or where there is no such table.
    """
    used, own = bundle.manifest.table, bundle.manifest.predicted.latency_interval_ms
    if used is None or own is None:
        return None
    identity = used.identity
    same = identity.device, identity.runtime, identity.runtime_version, identity.threads, identity.cores
    best: Faster | None = None
    for name in table_names():
        try:
            table = LatencyTable.load(name)
            found = table.identity
            there = found.device, found.runtime, found.runtime_version, found.threads, found.cores
            if there != same or found.precision == identity.precision or table.doubt is not None:
                continue
            middle = float(table.estimate_ms([bundle.architecture])[0])
            low, high = (float(end[0]) for end in table.interval_ms([bundle.architecture]))
        except EdgeNASError:  # spoiled, or of another space: it says nothing of this network
            continue
        if high < own[0] and (best is None or high < best.latency_interval_ms[1]):
            best = Faster(found.precision, name, middle, (low, high))
    return best
