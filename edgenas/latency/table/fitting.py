"""A table and whole networks: the calibration that they teach, and what the table says of them."""

import dataclasses

import numpy as np

from edgenas.architecture import Architecture
from edgenas.latency.table.calibration import fit
from edgenas.latency.table.certificate import Network
from edgenas.latency.table.table import LatencyTable


def calibrated_on(raw: LatencyTable, networks: tuple[Network, ...]) -> LatencyTable:
    """A table with a calibration fitted on whole networks."""
    found = [raw.features(Architecture.parse(network.notation)) for network in networks]
    truth_us = np.array([network.truth_ms * 1000 for network in networks])
    calibration = fit(np.array([sums for sums, _ in found]), truth_us, [loads for _, loads in found])
    table = dataclasses.replace(raw, calibration=calibration)
    calibration = dataclasses.replace(calibration, networks=with_predictions(table, networks))
    return dataclasses.replace(table, calibration=calibration)


def with_predictions(table: LatencyTable, networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """Networks with what a table predicts for them."""
    predicted = table.estimate_ms([Architecture.parse(network.notation) for network in networks])
    return tuple(
        dataclasses.replace(network, predicted_ms=float(ms)) for network, ms in zip(networks, predicted, strict=True)
    )
