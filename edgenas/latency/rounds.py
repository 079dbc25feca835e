"""From the times of interleaved rounds to costs relative to the reference model.

Machines drift: 14% within minutes was seen, all models together. So a device measures in rounds, the reference model
in each of them, and only ratios to the reference are kept.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgenas.errors import DeviceError


@dataclass(frozen=True)
class Ratio:
    """A model's time over the reference's, in the same rounds.

    Attributes:
        value: median of the rounds.
        spread: interquartile range / median.
    """

    value: float
    spread: float


@dataclass(frozen=True)
class Rounds:
    """One batch of models measured together.

    Attributes:
        ratios: one a model, None where it could not be run.
        failed: index -> why.
        reference_us: median of the reference's visits.
        reference_spread: interquartile range / median of them: the gate.
        busy_s: time the device was kept busy.
    """

    ratios: tuple[Ratio | None, ...]
    failed: Mapping[int, str]
    reference_us: float
    reference_spread: float
    busy_s: float


def read_rounds(answer: Mapping[str, Any], models: int, busy_s: float) -> Rounds:
    """Check what a device's `measure` answered, and reduce it.

    Args:
        answer: `visits_us` and `reference_at` [rounds][models], `reference_us` [rounds][visits], `failed`.
        models: how many were asked for.

    Raises:
        DeviceError: a value that no clock gives: NaN, infinite, zero or negative, or the wrong number of them.
    """
    try:
        failed = {int(index): str(reason) for index, reason in answer["failed"].items()}
        good = [index for index in range(models) if index not in failed]
        visits = _times(answer["visits_us"], good)
        beside = _times(answer["reference_at"], good)
        if visits.shape != beside.shape:
            raise ValueError(f"{len(visits)} rounds of the models, {len(beside)} of the reference")
        reference = np.array([time for row in answer["reference_us"] for time in row], dtype=float)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DeviceError(f"The device's answer to 'measure' makes no sense: {error!r}.") from None
    for values in (visits, beside, reference):
        if values.size and not (np.isfinite(values).all() and (values > 0).all()):
            raise DeviceError("The device reported a time that is not positive and finite; nothing was kept.")
    if reference.size == 0:
        raise DeviceError("The device reported no time of the reference model.")
    ratios: list[Ratio | None] = [None] * models
    for column, index in enumerate(good):
        quotients = visits[:, column] / beside[:, column]
        low, middle, high = np.percentile(quotients, [25, 50, 75])
        ratios[index] = Ratio(float(middle), float((high - low) / middle))
    low, middle, high = np.percentile(reference, [25, 50, 75])
    return Rounds(tuple(ratios), failed, float(middle), float((high - low) / middle), busy_s)


def _times(rows: Sequence[Sequence[float | None]], columns: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    table = np.array([[row[column] for column in columns] for row in rows], dtype=float)
    if len(rows) == 0 or table.shape != (len(rows), len(columns)):
        raise ValueError(f"{len(rows)} rounds of {len(columns)} models expected")
    return table


def geometric_mean(values: Sequence[float]) -> float:
    """The mean of ratios."""
    return math.exp(float(np.mean(np.log(values))))
