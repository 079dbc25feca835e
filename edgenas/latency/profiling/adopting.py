"""A layer that another table of the same device holds already is not measured again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.architecture import Layer
from edgenas.errors import EdgeNASError
from edgenas.latency.profiling.rounds import Ratio
from edgenas.latency.table import Identity, LatencyTable, table_names

# So many of the layers that a table could give are measured all the same; if these moved by more in the middle, or one
# in four by more than that, nothing is taken from it. (Where its buffers land moves a layer by a quarter now and then.)
PROBES, MOST_SHIFT, MOST_SPREAD = 12, 0.03, 0.10
LEAST_LAYERS = 3 * PROBES  # below that measuring is quicker than asking


@dataclass(frozen=True)
class Donor:
    """A table of the same device that holds some of the layers.

    Attributes:
        name: of the table.
        table: itself.
        layers: those it can give.
        probes: those of them that are measured to see whether the others still hold.
    """

    name: str
    table: LatencyTable
    layers: tuple[Layer, ...]
    probes: tuple[Layer, ...]

    def ratios(self, reference: Ratio) -> dict[Layer, float]:
        """What each layer takes over the reference of a new profile.

        Args:
            reference: this table's own reference, measured in the new profile.
        """
        scale = reference.value / self.table.reference[1]
        return {layer: self.table.entries[layer].us * scale for layer in self.layers}

    def holds(self, reference: Ratio, measured: dict[Layer, float]) -> bool:
        """Whether the probes, measured anew, are what the table says.

        Args:
            measured: ratio of each probe, the empty model's taken off.
        """
        told = self.ratios(reference)
        shifts = np.array([measured[layer] / told[layer] - 1 for layer in self.probes])
        return bool(abs(np.median(shifts)) <= MOST_SHIFT and np.percentile(np.abs(shifts), 75) <= MOST_SPREAD)


def find_donor(identity: Identity, wanted: Sequence[Layer], known: Iterable[str], own: str) -> Donor | None:
    """The table with the same identity that holds most of the layers; None where none holds enough.

    Args:
        identity: of the profile that is about to be made.
        wanted: its layers.
        known: layers, as text, that it has measured already.
        own: name of the table that is about to be made: who makes it again does not want the old figures.
    """
    have = set(known)
    best: Donor | None = None
    for name in table_names():
        if name == own:
            continue
        try:
            table = LatencyTable.load(name)
        except EdgeNASError:
            continue
        if table.identity != identity or table.doubt is not None:
            continue
        shared = [layer for layer in wanted if layer in table.entries and str(layer) not in have]
        if len(shared) >= max(LEAST_LAYERS, len(best.layers) if best else 0):
            # Layers of every cost; those that take next to nothing would tell nothing.
            costly = sorted(shared, key=lambda layer: table.entries[layer].us)[len(shared) // 4 :]
            places = np.unique(np.linspace(0, len(costly) - 1, PROBES).round().astype(int))
            best = Donor(name, table, tuple(shared), tuple(costly[place] for place in places))
    return best
