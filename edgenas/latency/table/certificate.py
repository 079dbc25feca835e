"""How far predictions can be trusted: networks that took no part in making them, measured beside their prediction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from edgenas.architecture import Architecture, MBConv
from edgenas.errors import InputError

Values = npt.NDArray[np.float64]
# A table that does worse than this backs no promise: these shares of networks within 10%, and this mean error, unless
# repeating a measurement is half as bad already.
LEAST_WITHIN_10_PERCENT, MOST_MAPE = 0.90, 0.05


@dataclass(frozen=True)
class Network:
    """A whole network that was measured beside its prediction.

    Attributes:
        notation: of its architecture.
        measured_ms, repeated_ms: at the beginning and at the end of the session.
        predicted_ms: by the table.
    """

    notation: str
    measured_ms: float
    repeated_ms: float
    predicted_ms: float

    @property
    def truth_ms(self) -> float:
        """The mean of both measurements."""
        return (self.measured_ms + self.repeated_ms) / 2

    @property
    def relative_error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted_ms / self.truth_ms - 1

    @cached_property
    def kernels(self) -> frozenset[int]:
        """Sizes of its depthwise kernels."""
        blocks = (node.block for node in Architecture.parse(self.notation).nodes)
        return frozenset(block.kernel for block in blocks if isinstance(block, MBConv))


@dataclass(frozen=True)
class Quality:
    """How well predictions of some networks hold; shares and errors are fractions.

    Attributes:
        networks: how many.
        within_5_percent, within_10_percent: share of them.
        mape: mean absolute relative error.
        noise_floor: mean absolute relative difference between two measurements of the same network.
        spearman: rank correlation of predicted and measured; NaN for fewer than two.
    """

    networks: int
    within_5_percent: float
    within_10_percent: float
    mape: float
    noise_floor: float
    spearman: float


def quality(networks: Sequence[Network]) -> Quality:
    """How well the predictions of these networks hold."""
    if not networks:
        nan = float("nan")
        return Quality(0, nan, nan, nan, nan, nan)
    errors = np.array([abs(network.relative_error) for network in networks])
    repeats = [abs(network.repeated_ms / network.measured_ms - 1) for network in networks]
    truth = np.array([network.truth_ms for network in networks])
    predicted = np.array([network.predicted_ms for network in networks])
    return Quality(
        networks=len(networks),
        within_5_percent=float((errors <= 0.05).mean()),
        within_10_percent=float((errors <= 0.10).mean()),
        mape=float(errors.mean()),
        noise_floor=float(np.mean(repeats)),
        spearman=spearman(truth, predicted),
    )


@dataclass(frozen=True)
class Certificate:
    """Whole networks of two sets apart from each other and from what the calibration was fitted on.

    Attributes:
        networks: show how good the predictions are.
        intervals: give the predictions' intervals their width.
    """

    networks: tuple[Network, ...]
    intervals: tuple[Network, ...]

    def near(self, limit_ms: float, share: float = 0.2) -> Quality:
        """How well predictions hold for networks whose measured time is within `share` of a limit."""
        return quality([n for n in self.networks if abs(n.truth_ms / limit_ms - 1) <= share])

    def without(self, kernels: Sequence[int]) -> Quality:
        """How well they hold for networks that have none of these kernels: a few slow operators that every prediction
        sees make a rank correlation look good."""
        return quality([n for n in self.networks if n.kernels.isdisjoint(kernels)])

    @property
    def doubt(self) -> str | None:
        """Why nothing should be promised on it; None where all is well."""
        found = quality(self.networks)
        if not found.within_10_percent >= LEAST_WITHIN_10_PERCENT:
            return (
                f"only {found.within_10_percent:.0%} of its {found.networks} test networks are within 10% "
                f"({LEAST_WITHIN_10_PERCENT:.0%} are wanted)"
            )
        if found.mape > max(MOST_MAPE, 2 * found.noise_floor):
            return f"its mean error is {found.mape:.1%} (at most {MOST_MAPE:.0%} is wanted)"
        return None

    def factor(self, coverage: float) -> float:
        """f such that measured lies between predicted / f and predicted x f with probability `coverage`.

        Split conformal prediction (Vovk et al., 2005) on networks of their own, with |log(measured / predicted)| as
        the score: nothing is assumed of its distribution. Measured is a single time, the later one: what a user will
        measure is one too, with its own noise.

        Raises:
            InputError: too few networks for that coverage.
        """
        if not 0 < coverage <= 1:
            raise InputError(f"A coverage is a share above 0 and at most 1, received {coverage}.")
        scores = np.sort([abs(math.log(network.repeated_ms / network.predicted_ms)) for network in self.intervals])
        rank = math.ceil((len(scores) + 1) * coverage)
        if rank > len(scores):
            raise InputError(
                f"{len(scores)} networks back a coverage of up to {len(scores) / (len(scores) + 1):.0%}, received "
                f"{coverage:.0%}."
            )
        return math.exp(float(scores[rank - 1]))


def spearman(first: Values, second: Values) -> float:
    """Rank correlation (no ties to speak of among measured times)."""
    if len(first) < 2:
        return float("nan")
    ranks = np.argsort(np.argsort(first)), np.argsort(np.argsort(second))
    return float(np.corrcoef(*ranks)[0, 1])
