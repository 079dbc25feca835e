"""The latency table: what each layer costs on one device, how those costs add up, and how far to trust the sum.

NumPy only: a table can be read and used where nothing else of EdgeNAS is wanted.
"""

import dataclasses
import json
import math
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
from edgenas.latency.table.certificate import Certificate, Quality, quality
from edgenas.latency.table.parts import Entry, Identity
from edgenas.space import Codes, MobileSpace

Values = npt.NDArray[np.float64]
Source = Literal["measured", "imported", "simulated"]
SCHEMA = 2
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
            if not (math.isfinite(us) and us > 0):
                raise InputError(f"A latency table takes positive, finite times only: {what} has {us!r}.")

    def _times(self) -> Iterator[tuple[object, float]]:
        """Everything in it that a clock has told, and of what."""
        for layer, entry in self.entries.items():
            yield layer, entry.us
            if entry.cold_us is not None:
                yield layer, entry.cold_us
        if self.reference != ("", 0):
            yield "the reference model", self.reference[1]
        networks = self.calibration.networks
        if self.certificate is not None:
            networks += self.certificate.networks + self.certificate.intervals
        for network in networks:
            yield network.notation, network.measured_ms
            yield network.notation, network.repeated_ms

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
        files.write_atomically(path, _as_text(self._content() | {"checksum": self.checksum}))

    @property
    def checksum(self) -> str:
        """SHA-256 of everything in the table."""
        return files.sha256(files.canonical_json(self._content()).encode())

    @classmethod
    def load(cls, name: str | Path) -> "LatencyTable":
        """Read a table by its name (the user's own first, then those shipped) or its path.

        Raises:
            InputError: missing, damaged, of another schema, or with values that no measurement gives.
        """
        path = _find(name)
        try:
            text = path.read_bytes().decode()
            content = json.loads(text)
            checksum = content.pop("checksum")
            good = files.sha256(files.canonical_json(content).encode()) == checksum
            good = good and _as_text(content | {"checksum": checksum}) == text  # nothing but what was written
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"The latency table {path} cannot be read ({error}). Profile the device again.") from None
        if not good:
            raise InputError(f"The latency table {path} is damaged: its checksum does not match. Profile again.")
        if content.get("schema") != SCHEMA:
            raise InputError(f"The latency table {path} has schema {content.get('schema')!r}, expected {SCHEMA}.")
        return cls._from_content(content, str(path))

    def _content(self) -> dict[str, Any]:
        def plain(part: Any) -> Any:
            return None if part is None else files.as_mapping(part)

        return {
            "schema": SCHEMA,
            "identity": plain(self.identity),
            "source": self.source,
            "reference": {"notation": self.reference[0], "us": self.reference[1]},
            "empty_us": self.empty_us,
            "calibration": plain(self.calibration),
            "certificate": plain(self.certificate),
            "provenance": self.provenance,
            "entries": {
                str(layer): [entry.us, entry.half_width, entry.cold_us, entry.resident_kb]
                for layer, entry in self.entries.items()
            },
        }

    @classmethod
    def _from_content(cls, content: dict[str, Any], where: str) -> "LatencyTable":
        try:
            certificate = content["certificate"]
            return cls(
                identity=files.from_mapping(Identity, content["identity"], where),
                source=content["source"],
                reference=(str(content["reference"]["notation"]), float(content["reference"]["us"])),
                empty_us=float(content["empty_us"]),
                entries={Layer.parse(key): _entry(*values) for key, values in content["entries"].items()},
                calibration=files.from_mapping(Calibration, content["calibration"], where),
                certificate=None if certificate is None else files.from_mapping(Certificate, certificate, where),
                provenance=dict(content["provenance"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"The latency table {where} cannot be read: {error!r}. Profile the device again."
            ) from None


def _entry(us: Any, half_width: Any, cold_us: Any, resident_kb: Any) -> Entry:
    """From numbers of a file."""
    return Entry(float(us), *(None if part is None else float(part) for part in (half_width, cold_us, resident_kb)))


def _load(entry: Entry) -> tuple[float, float]:
    """How long a layer takes to fetch its own into the caches again, and how much it keeps; 0 where nobody knows."""
    reload_us = 0.0 if entry.cold_us is None else max(0.0, entry.cold_us - entry.us)
    return reload_us, entry.resident_kb or 0.0


def _plain(found: Quality) -> dict[str, float | None]:
    """A `Quality` for JSON, which has no NaN."""
    return {key: None if value != value else value for key, value in dataclasses.asdict(found).items()}


def _as_text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


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
