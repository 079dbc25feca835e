"""The latency table: what each layer costs on one device, how those costs add up, and how far to trust the sum.

NumPy only: a table can be read and used where nothing else of EdgeNAS is wanted.
"""

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

import edgenas.files as files
from edgenas.architecture import Architecture, Layer
from edgenas.architecture.blocks import Dense, MBConv
from edgenas.errors import EdgeNASError, InputError, near
from edgenas.latency.table.calibration import Calibration, Loads, cache_terms, features
from edgenas.latency.table.certificate import Certificate, Network, Quality, quality
from edgenas.latency.table.parts import LEAST, MOST, Entry, Identity
from edgenas.latency.table.stored import SCHEMA, Reference, Stored, read
from edgenas.space import Codes, MobileSpace

Values = npt.NDArray[np.float64]
Source = Literal["measured", "imported", "simulated"]
SUFFIX = ".json"


class MissingLayersError(EdgeNASError):
    """The table lacks layers; the message names some and what to do.

    Args:
        layers: that it lacks.
        remedy: what to do, such as the command that measures them.
    """

    def __init__(self, layers: Sequence[Layer], remedy: str) -> None:
        shown = ", ".join(str(layer) for layer in layers[:3]) + (", ..." if len(layers) > 3 else "")
        super().__init__(f"The latency table lacks {len(layers)} layers ({shown}). {remedy}")
        self.layers = tuple(layers)


@dataclass(frozen=True)
class LatencyTable:
    """What each layer costs on one device.

    Attributes:
        identity: what was measured on.
        source: "measured", "imported", or "simulated" (tests only: `ship` refuses what rests on one).
        reference: notation and microseconds of the network that every round measured too; ("", 0) where it was
            imported.
        empty_us: what an inference costs before any layer runs.
        entries: cost by layer.
        calibration: from the sum of layers to a whole network.
        certificate: None where nobody checked.
        provenance: when, by which version, at what cost.
    """

    identity: Identity
    source: Source
    reference: tuple[str, float]
    empty_us: float
    entries: dict[Layer, Entry]
    calibration: Calibration = field(default_factory=Calibration)
    certificate: Certificate | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise InputError(f"The source of a latency table is one of {get_args(Source)}, received {self.source!r}.")
        for what, us in self._times():
            if not LEAST <= us <= MOST:
                raise InputError(f"A latency table takes positive, finite times only: {what} has {us!r}.")
        for what, number in self._numbers():
            if not abs(number) <= MOST:
                raise InputError(f"A latency table takes finite numbers only: {what} has {number!r}.")

    def _times(self) -> Iterator[tuple[object, float]]:
        """Everything in it that a clock has told, and of what."""
        for layer, entry in self.entries.items():
            yield layer, entry.us
            if entry.cold_us is not None:
                yield layer, entry.cold_us
        if self.reference != ("", 0):
            yield "the reference model", self.reference[1]
        for network in self.networks:
            yield network.notation, network.measured_ms
            yield network.notation, network.repeated_ms
            yield f"the prediction of {network.notation}", network.predicted_ms

    def _numbers(self) -> Iterator[tuple[object, float]]:
        """Everything else that predictions are made of."""
        for layer, entry in self.entries.items():
            yield layer, entry.half_width or 0.0
            yield layer, entry.resident_kb or 0.0
        fitted = self.calibration
        yield "the empty model", self.empty_us
        for number in (*fitted.coefficients.values(), fitted.offset_us, fitted.cache_kb, fitted.refetch):
            yield "the calibration", number

    @property
    def networks(self) -> tuple[Network, ...]:
        """All whole networks that were measured for it."""
        certificate = self.certificate
        checking = () if certificate is None else certificate.networks + certificate.intervals
        return self.calibration.networks + checking

    @property
    def precision(self) -> Literal["float32", "int8"]:
        """Of the models that it is for."""
        return "int8" if self.identity.precision == "int8" else "float32"

    @property
    def doubt(self) -> str | None:
        """Why its predictions are no promise; None where they are. Whoever shows a prediction shows this too."""
        if self.source != "measured":
            return f"the table is {self.source}"
        if self.certificate is None:
            return "the table has no certificate: nobody checked its predictions"
        if (doubt := self.certificate.doubt) is not None:
            return f"the table fails its own certificate: {doubt}"
        return None

    # Prediction

    def estimate_ms(self, architectures: Sequence[Architecture]) -> Values:
        """[N] predicted latency, ms.

        Raises:
            MissingLayersError: a layer was never measured.
        """
        return self.calibration.network_us(self._sums(architectures)) / 1000

    def layers_us(self, architecture: Architecture) -> Values:
        """[layers] what each layer adds to the network's time, the caches' share and the offset apart.

        Raises:
            MissingLayersError: a layer was never measured.
        """
        self._sums([architecture])
        return np.array([self._costs[layer][0] for layer in architecture.layers()])

    def _sums(self, architectures: Sequence[Architecture]) -> Values:
        """[N, 4] of what the layers of networks add to them."""
        costs = self._costs
        missing: dict[Layer, None] = {}
        sums = np.zeros((len(architectures), 4))
        for index, architecture in enumerate(architectures):
            rows = []
            for layer in architecture.layers():
                cost = costs.get(layer)
                if cost is None:
                    cost = self._cost(layer)
                    if cost is None:
                        missing[layer] = None
                        continue
                    costs[layer] = cost
                rows.append(cost)
            sums[index] = [sum(column) for column in zip(*rows, strict=True)] if rows else 0.0
        if missing:
            raise MissingLayersError(list(missing), self._remedy(list(missing)))
        return sums

    def estimate_codes_ms(self, space: MobileSpace, codes: Codes) -> Values:
        """[N] predicted latency of rows of codes [N, choices], ms: a gather and a sum.

        Raises:
            MissingLayersError: a layer of the space was never measured.
        """
        costs = self.costs(space)
        # Where the caches play no part one sum will do.
        columns = costs if self.calibration.refetch else costs[:, :1]
        return self.calibration.network_us(space.sum_over_layers(codes, columns)) / 1000

    def costs(self, space: MobileSpace) -> Values:
        """[layers, 4] what each of `space.layers()` adds to a network: to its time, and to the three sums that tell
        what the caches cost it.

        Raises:
            MissingLayersError: a layer of the space was never measured.
        """
        found = [self._cost(layer) for layer in space.layers()]
        missing = [layer for layer, cost in zip(space.layers(), found, strict=True) if cost is None]
        if missing:
            raise MissingLayersError(missing, self._remedy(missing, space))
        return np.array(found, dtype=float)

    def interval_ms(self, architectures: Sequence[Architecture], coverage: float = 0.9) -> tuple[Values, Values]:
        """([N], [N]) ends of an interval that holds the measured latency with probability `coverage`.

        Raises:
            InputError: the table has no certificate, or too few networks in it for that coverage.
        """
        factor, middle = self.interval_factor(coverage), self.estimate_ms(architectures)
        return middle / factor, middle * factor

    def interval_factor(self, coverage: float = 0.9) -> float:
        """f of the interval (predicted / f, predicted x f); see `Certificate.factor`."""
        if self.certificate is None:
            raise InputError("This table has no certificate, so it gives no interval: profile the device again.")
        return self.certificate.factor(coverage)

    def certificate_summary(self) -> dict[str, Any] | None:
        """The certificate as plain data: a `Quality`, the same without the device's slow kernels, and the doubt."""
        if self.certificate is None:
            return None
        slow = self.slow_kernels()
        return {
            **_plain(quality(self.certificate.networks)),
            "slow_kernels": list(slow),
            "without_slow_kernels": _plain(self.certificate.without(slow)) if slow else None,
            "doubt": self.doubt,
        }

    def slow_kernels(self) -> tuple[int, ...]:
        """Depthwise kernel sizes that leave the device's fast kernels: their layers cost more, compared with the same
        layer of the smallest kernel, than even the kernel's area explains."""
        by_kernel: dict[Any, dict[int, float]] = {}
        for layer, entry in self.entries.items():
            if isinstance(layer.block, MBConv):
                family = dataclasses.replace(layer.block, kernel=3), layer.input_shapes
                by_kernel.setdefault(family, {})[layer.block.kernel] = entry.us
        growth: dict[int, list[float]] = {}
        for costs in by_kernel.values():
            least = min(costs)
            for kernel, us in costs.items():
                growth.setdefault(kernel, []).append(us / costs[least] / (kernel / least) ** 2)
        return tuple(sorted(kernel for kernel, ratios in growth.items() if np.median(ratios) > 1))

    def _remedy(self, layers: Sequence[Layer], space: MobileSpace | None = None) -> str:
        """What a user types to have these layers measured; an imported table cannot get any."""
        shape = space.input_shape if space else None
        size = "x".join(map(str, shape)) if shape else "HxWxC"
        classes = max((layer.block.classes for layer in layers if isinstance(layer.block, Dense)), default=0)
        if self.source == "imported":
            how = "It was imported, and has what its file has: a table of your own knows all layers. Make one: "
        else:
            how = "Measure them with: "
        return (
            f"{how}edgenas profile {self.identity.device} --space {space.name if space else 'SPACE'} --input {size} "
            f"--precision {self.identity.precision} --threads {self.identity.threads}"
            + (f" --classes {classes}" if classes else "")
            + (f" --activation {space.activation}" if space and space.activation != "relu6" else "")
        )

    @cached_property
    def _costs(self) -> dict[Layer, tuple[float, ...]]:
        """What each layer adds to a network, as `costs` gives it."""
        loads = np.array([_load(entry) for entry in self.entries.values()], dtype=float).reshape(-1, 2)
        reloads, resident = loads.T
        terms = cache_terms(reloads, resident, self.calibration.cache_kb)
        return {
            layer: (self.calibration.layer_us(layer, entry.us), *map(float, row))
            for (layer, entry), row in zip(self.entries.items(), terms, strict=True)
        }

    def entry(self, layer: Layer) -> Entry:
        """What a layer took alone.

        Raises:
            MissingLayersError: it was never measured.
        """
        if layer not in self.entries:
            raise MissingLayersError([layer], self._remedy([layer]))
        return self.entries[layer]

    def features(self, architecture: Architecture) -> tuple[Values, Loads]:
        """[FEATURES] of a network and what its layers ask of the caches, for a calibration."""
        entries = [(layer, self.entry(layer)) for layer in architecture.layers()]
        total: Values = np.sum([features(layer, entry.us) for layer, entry in entries], axis=0)
        reloads, resident = zip(*(_load(entry) for _, entry in entries), strict=True)
        return total, Loads(np.array(reloads), np.array(resident))

    def _cost(self, layer: Layer) -> tuple[float, ...] | None:
        cost = self._costs.get(layer)
        return self._dense_cost(layer) if cost is None else cost

    def _dense_cost(self, layer: Layer) -> tuple[float, ...] | None:
        """A classifier's cost for a number of classes between two measured ones: linear in the classes."""
        if not isinstance(layer.block, Dense):
            return None
        known = sorted(
            (found.block.classes, cost)
            for found, cost in self._costs.items()
            if isinstance(found.block, Dense) and found.input_shapes == layer.input_shapes
        )
        if not known or not known[0][0] <= layer.block.classes <= known[-1][0]:
            return None
        classes = [count for count, _ in known]
        return tuple(
            float(np.interp(layer.block.classes, classes, column))
            for column in zip(*(cost for _, cost in known), strict=True)
        )

    # On disk

    def save(self, path: Path) -> None:
        """Write it, whole or not at all, with its checksum."""
        self._stored().write(path)

    @property
    def checksum(self) -> str:
        """SHA-256 of everything in the table."""
        return self._stored().checksum

    @classmethod
    def load(cls, name: str | Path) -> "LatencyTable":
        """Read a table by its name (the user's own first, then those shipped) or its path.

        Raises:
            InputError: missing, damaged, of another schema, or with values that no measurement gives.
        """
        path = _find(name)
        stored = read(path)
        try:
            table = cls(
                identity=stored.identity,
                source=typing.cast(Source, stored.source),
                reference=(stored.reference.notation, stored.reference.us),
                empty_us=stored.empty_us,
                entries={Layer.parse(key): Entry(*values) for key, values in stored.entries.items()},
                calibration=stored.calibration,
                certificate=stored.certificate,
                provenance=stored.provenance,
            )
            for layer in table.entries:
                _ = layer.output_shape  # a block refuses inputs that it cannot take
            for network in table.networks:
                _ = network.kernels  # its notation is one
        except InputError as error:
            raise InputError(f"The latency table {path} cannot be read: {error}") from error
        return table

    def _stored(self) -> Stored:
        return Stored(
            schema=SCHEMA,
            identity=self.identity,
            source=self.source,
            reference=Reference(*self.reference),
            empty_us=self.empty_us,
            calibration=self.calibration,
            certificate=self.certificate,
            provenance=self.provenance,
            entries={
                str(layer): (entry.us, entry.half_width, entry.cold_us, entry.resident_kb)
                for layer, entry in self.entries.items()
            },
        )


def _load(entry: Entry) -> tuple[float, float]:
    """How long a layer takes to fetch its own into the caches again, and how much it keeps; 0 where nobody knows."""
    reload_us = 0.0 if entry.cold_us is None else max(0.0, entry.cold_us - entry.us)
    return reload_us, entry.resident_kb or 0.0


def _plain(found: Quality) -> dict[str, float | None]:
    """A `Quality` for JSON, which has no NaN."""
    return {key: None if value != value else value for key, value in dataclasses.asdict(found).items()}


def _find(name: str | Path) -> Path:
    if isinstance(name, Path) or "/" in name or name.endswith(SUFFIX):
        if not Path(name).is_file():
            raise InputError(f"There is no latency table {name}. `edgenas table list` shows those there are.")
        return Path(name)
    path = files.find_shipped("latency_tables", name, SUFFIX)
    if path is None:
        raise InputError(f"There is no latency table {name!r}. {near(name, table_names())}")
    return path


def table_names() -> list[str]:
    """The tables there are: the user's own and those shipped."""
    return sorted({p.stem for folder in files.shipped_folders("latency_tables") for p in folder.glob(f"*{SUFFIX}")})


def remove_table(name: str) -> None:
    """Remove a table of the user's.

    Raises:
        InputError: there is none of that name, or it came with EdgeNAS.
    """
    path = Path("latency_tables") / f"{files.check_name('table', name)}{SUFFIX}"
    if path.is_file():
        path.unlink()
    elif name in table_names():
        raise InputError(f"The table {name!r} came with EdgeNAS and stays; only yours, in ./latency_tables, go.")
    else:
        raise InputError(f"There is no table {name!r}. {near(name, table_names())}")
