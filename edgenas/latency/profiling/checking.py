"""Whether a table still holds: a small, well chosen sample of it, measured again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgenas.architecture import Architecture
from edgenas.device import Device
from edgenas.errors import CheckFailedError, InputError
from edgenas.latency.profiling.anchors import MOST_SHIFT, spread
from edgenas.latency.profiling.bench import Progress, no_progress
from edgenas.latency.profiling.benches import AnyBench, identify, open_bench
from edgenas.latency.profiling.profiler import BATCH, Subject
from edgenas.latency.profiling.rounds import Ratio
from edgenas.latency.profiling.siblings import differences
from edgenas.latency.steadiness import STEADY, Steadiness
from edgenas.latency.table import LatencyTable
from edgenas.model import MODELS, ConversionPool, wait_for

NETWORKS, LAYERS = 16, 40
# Fresh: the networks' times moved by at most this share in the middle, nine in ten layers by at most that, and the
# device as a whole is this much slower or faster at most.
# And at least this share of the networks lies in the interval that holds 90% of them in a table that is right.
MOST_LAYER_SHIFT, MOST_SPEED_SHIFT = 0.20, 0.20
LEAST_IN_INTERVAL = 0.6


@dataclass(frozen=True)
class Freshness:
    """What a check found; shares are of the table's own figures.

    Attributes:
        changes: what of the device's identity has changed, in words.
        speed: the reference model's time now over that in the table.
        networks: median of now / table over the networks, relative to the reference model.
        in_interval: share of the networks within the prediction's 90% interval, that median divided out.
        layers: nine in ten layers moved by at most this share.
        worst: (layer, now / table) of those that moved most.
        steadiness: of the device meanwhile.
    """

    changes: tuple[str, ...]
    speed: float
    networks: float
    in_interval: float
    layers: float
    worst: tuple[tuple[str, float], ...]
    steadiness: Steadiness = STEADY

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the table does not hold any more, in words."""
        found = []
        if abs(self.speed - 1) > MOST_SPEED_SHIFT:
            found.append(f"the whole device takes {self.speed:.2f} times as long as when the table was made")
        if abs(self.networks - 1) > MOST_SHIFT:
            found.append(f"networks take {self.networks:.2f} times as long beside the reference model")
        if self.layers > MOST_LAYER_SHIFT:
            found.append(f"one layer in ten has moved by more than {self.layers:.0%}")
        if self.in_interval < LEAST_IN_INTERVAL:
            found.append(f"only {self.in_interval:.0%} of the networks lie in the interval of their prediction")
        return tuple(found)

    @property
    def fresh(self) -> bool | None:
        """Whether the table still holds; None where it seems not to, and the device is too busy to tell."""
        return True if not self.reasons else None if self.steadiness.disturbed else False


def check_table(device: Device, table: LatencyTable, progress: Progress = no_progress) -> Freshness:
    """Measure a sample of a table again, on the device that it is for.

    Raises:
        InputError: the table was imported, or has no certificate: there is nothing to check it against.
        DeviceError: unreachable, or too disturbed.
    """
    if table.certificate is None or not table.reference[0]:
        raise InputError(
            f"The table is {table.source} and has no measured networks to check it against. A table of your own has: "
            f"edgenas profile {device.name} --space ... --input ... --precision {table.precision}"
        )
    networks = spread(table.certificate.networks, [n.truth_ms for n in table.certificate.networks], NETWORKS)
    layers = spread(list(table.entries), [entry.us for entry in table.entries.values()], LAYERS)
    subjects: list[Subject] = [Architecture.parse(network.notation) for network in networks]
    paths = convert(table, [*subjects, *layers], progress)
    with bench_of(device, table, progress) as bench:
        changes = differences(table.identity, identify(bench, table.precision, table.identity.threads))
        ratios, steadiness = measure_again(bench, paths, progress)
        reference_us = bench.reference_us
    was_us = table.reference[1]
    now_ms = np.array([ratio.value for ratio in ratios[: len(networks)]]) * was_us / 1000
    shifts = now_ms / np.array([network.truth_ms for network in networks])
    predicted, factor = np.array([network.predicted_ms for network in networks]), table.interval_factor(0.9)
    still_ms = now_ms / np.median(shifts)  # the device's state is in `networks`
    held = (still_ms >= predicted / factor) & (still_ms <= predicted * factor)
    now_us = np.maximum(np.array([ratio.value for ratio in ratios[len(networks) :]]) * was_us - table.empty_us, 1e-3)
    moved = now_us / np.array([table.entries[layer].us for layer in layers])
    # A layer that takes next to nothing moves by large shares and matters to nobody.
    heavy = np.array([table.entries[layer].us for layer in layers]) > 0.002 * was_us
    order = [int(i) for i in np.argsort(-np.abs(np.log(moved))) if heavy[i]]
    return Freshness(
        changes,
        speed=reference_us / was_us,
        networks=float(np.median(shifts)),
        in_interval=float(held.mean()),
        layers=float(np.percentile(np.abs(moved[heavy] - 1), 90)),
        worst=tuple((str(layers[i]), float(moved[i])) for i in order[:5]),
        steadiness=steadiness,
    )


def convert(table: LatencyTable, subjects: Sequence[Subject], progress: Progress) -> list[Path]:
    """The subjects' `.tflite` files, and that of the table's reference as the last."""
    with ConversionPool(MODELS, table.precision) as pool:
        jobs = pool.submit([*subjects, Architecture.parse(table.reference[0])])
        return wait_for(jobs, lambda done, total: progress("converting", done, total))


def measure_again(bench: AnyBench, paths: Sequence[Path], progress: Progress) -> tuple[list[Ratio], Steadiness]:
    """The ratio of each file but the last to the last, and how steady the device was: as in the worst batch.

    Raises:
        CheckFailedError: a model does not run.
        DeviceError: the link broke, or the device stays disturbed.
    """
    *models, reference = paths
    ratios: list[Ratio] = []
    steadiness = STEADY
    for start in range(0, len(models), BATCH):
        progress("measuring", start, len(models))
        rounds = bench.measure(models[start : start + BATCH], reference)
        steadiness = rounds.steadiness if rounds.steadiness.disturbed else steadiness
        for index, ratio in enumerate(rounds.ratios):
            if ratio is None:
                raise CheckFailedError(
                    f"{bench.device.name}: {models[start + index].name} does not run there: {rounds.failed[index]}."
                )
            ratios.append(ratio)
    progress("measuring", len(models), len(models))
    return ratios, steadiness


def bench_of(device: Device, table: LatencyTable, progress: Progress = no_progress) -> AnyBench:
    """The device, to be measured as the table was."""
    return open_bench(device, table.identity.threads, progress)
