"""Which table fits (by device, runtime, precision, threads and the layers that a space needs), and what backs it."""

from dataclasses import dataclass

from edgenas.device import Device, phone_delegate
from edgenas.errors import EdgeNASError, InputError, counted
from edgenas.latency.table import LatencyTable, MissingLayersError, table_names
from edgenas.latency.table.certificate import Quality
from edgenas.space import MobileSpace

_COVERED_CLASSES = 1000  # a profile has classifiers of up to so many without being asked


@dataclass(frozen=True)
class Backing:
    """What stands behind the predictions of a table.

    Attributes:
        table: its name.
        doubt: why they are no promise; None where they are.
        near_limit: how well they hold for networks within 20% of a limit; None without a limit or a certificate.
    """

    table: str
    doubt: str | None
    near_limit: Quality | None

    def __str__(self) -> str:
        if self.doubt is not None:
            return f"Latencies are NO PROMISE: {self.doubt}."
        near = self.near_limit
        if near is None:
            return ""
        if not near.networks:
            return "No network of the certificate lies near the limit on latency: nobody checked predictions there."
        return (
            f"Near the limit on latency {near.networks} test networks were predicted with a mean error of "
            f"{near.mape:.1%}, {near.within_10_percent:.0%} of them within 10%."
        )


def backing(name: str, limit_ms: float | None) -> Backing:
    """What backs predictions of the table `name`, near a limit too where there is one."""
    try:
        table = LatencyTable.load(name)
    except EdgeNASError as error:
        return Backing(name, str(error).rstrip("."), None)
    near = table.certificate.near(limit_ms) if table.certificate and limit_ms is not None else None
    return Backing(name, table.doubt, near)


def mismatch(table: LatencyTable, device: Device, precision: str, threads: int) -> str | None:
    """What a table was measured for that is not what is wanted, in words; None where it fits."""
    identity, delegate = table.identity, phone_delegate(device)
    for what, found, wanted in (
        ("device", identity.device, device.name),
        ("precision", identity.precision, precision),
        ("number of threads", identity.threads, threads),
        ("runtime", identity.runtime, device.runtime.package),
        ("delegate", delegate and identity.delegate, delegate),
    ):
        if found != wanted:
            return f"it is for the {what} {found}, wanted is {wanted}"
    return None


def find_table(
    device: Device, space: MobileSpace, precision: str, threads: int, name: str | None = None
) -> tuple[str, LatencyTable]:
    """The name of the table that fits, and the table.

    Args:
        name: the one that the user asks for; else all there are are tried.

    Raises:
        InputError: none fits, or more than one does; the text says what to type.
        MissingLayersError: the table that was asked for lacks layers of the space.
    """
    if name is not None:
        table = LatencyTable.load(name)
        if (why := mismatch(table, device, precision, threads)) is not None:
            raise InputError(f"The latency table {name!r} does not fit: {why}. `edgenas table list` shows all.")
        table.costs(space)
        return name, table
    fitting: dict[str, LatencyTable] = {}
    unreadable = []
    for candidate in table_names():
        try:
            table = LatencyTable.load(candidate)
            if mismatch(table, device, precision, threads) is None:
                table.costs(space)
                fitting[candidate] = table
        except MissingLayersError:
            continue
        except EdgeNASError as error:
            unreadable.append(str(error))
    if len(fitting) == 1:
        return fitting.popitem()
    if fitting:
        raise InputError(f"More than one latency table fits: {', '.join(fitting)}. Choose one with --table.")
    shape = "x".join(map(str, space.input_shape))
    classes = f" --classes {space.classes}" if space.classes > _COVERED_CLASSES else ""
    activation = f" --activation {space.activation}" if space.activation != "relu6" else ""
    raise InputError(
        f"No latency table fits {device.name}, {space.name} at {shape}, {precision}, {counted(threads, 'thread')}. "
        f"Make one: edgenas profile {device.name} --space {space.name} --input {shape} --precision {precision} "
        f"--threads {threads}{classes}{activation}" + (f" ({' '.join(unreadable)})" if unreadable else "")
    )
