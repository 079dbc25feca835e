"""What a profile measures: every layer of a space, and whole networks for calibration, intervals and certificate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgenas.architecture import Architecture, Dense, Layer
from edgenas.latency.table.calibration import choose_networks
from edgenas.space import MobileSpace

# Classifiers are measured for these numbers of classes; between them their cost is linear.
CLASSES = (2, 10, 100, 1000)
# Whole networks: to fit the calibration, to give intervals their width, to test both.
NETWORKS = (60, 50, 40)
FEWER_NETWORKS = (30, 20, 20)  # for a first look: wider intervals, a coarser certificate


@dataclass(frozen=True)
class Plan:
    """What a profile measures.

    Attributes:
        layers: every layer that the space can produce, its classifier for several numbers of classes.
        calibration, intervals, certificate: whole networks; see `Calibration` and `Certificate`.
        reference: the network of every round.
    """

    layers: tuple[Layer, ...]
    calibration: tuple[Architecture, ...]
    intervals: tuple[Architecture, ...]
    certificate: tuple[Architecture, ...]
    reference: Architecture

    @property
    def networks(self) -> tuple[Architecture, ...]:
        """All whole networks, those for calibration first."""
        return self.calibration + self.intervals + self.certificate


def plan_profile(
    space: MobileSpace, seed: int = 0, classes: Sequence[int] = CLASSES, networks: tuple[int, int, int] = NETWORKS
) -> Plan:
    """Layers and networks to measure for a space.

    The calibration's networks are chosen to tell most, the others drawn at random.

    Args:
        space: whose layers.
        seed: of the networks that are drawn.
        classes: numbers of classes that the classifier is measured for.
        networks: how many, for calibration, intervals and certificate.
    """
    layers = list(space.layers())
    for count in sorted({*classes, space.classes}):
        layers += [layer for layer in space.with_classes(count).layers() if isinstance(layer.block, Dense)]
    rng = np.random.default_rng(seed)
    calibration = choose_networks(space.decode_codes(space.sample(rng, 500)), networks[0])
    reference = space.decode({name: options[len(options) // 2] for name, options in space.choices.items()})
    count = networks[1] + networks[2]
    drawn = dict.fromkeys(space.decode_codes(space.sample(rng, 2 * count)))
    others = [network for network in drawn if network not in calibration][:count]
    return Plan(
        tuple(dict.fromkeys(layers)),
        calibration,
        tuple(others[: networks[1]]),
        tuple(others[networks[1] :]),
        reference,
    )
