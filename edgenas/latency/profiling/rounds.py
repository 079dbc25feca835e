"""From the times of interleaved rounds to costs relative to the reference model.

Machines drift: 14% within minutes was seen, all models together. So a device measures in rounds, the reference model
between every few models, and only ratios to the reference are kept.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.device import Agent
from edgenas.device.agent import machine
from edgenas.errors import DeviceError
from edgenas.latency.steadiness import STEADY, Steadiness, slowed

Values = npt.NDArray[np.float64]
# One pass visits each model so often, in a process of its own. A model's ratio is known when 1.96 standard errors of
# its mean over the passes are at most this share of it; or after so many passes.
VISITS, LEAST_VISITS = 10, 4
LEAST_PASSES, MOST_PASSES, HALF_WIDTH = 3, 6, 0.01
# Passes that gave little because the device was disturbed, before it is measured as one that is busy; and then, before
# giving up.
TRIES, BUSY_TRIES, LONGEST_WAIT_S = 3, 8, 30
SILENCE_S = 300  # of the agent: a slow model's single visit


@dataclass(frozen=True)
class Ratio:
    """A model's time over the reference's, in the same rounds.

    Attributes:
        value: mean over the passes of the median of a pass.
        half_width: 1.96 standard errors of that mean, as a share of it.
        cold: the same of an inference when the caches are full of other data; None on a phone.
        resident_kb: memory that it keeps, the least of the passes; None where the device does not tell.
    """

    value: float
    half_width: float
    cold: float | None
    resident_kb: float | None


@dataclass(frozen=True)
class _Visited:
    """What visiting a batch of models gave, besides the ratios.

    Attributes:
        visits_us: one a model [visits], undisturbed.
        failed: index -> why it cannot be run.
        reference_us: median of the reference's visits.
        visits, interrupted, drifted: how many were tried; of those, how many lost the core, and how many had a
            reference beside them that had moved.
        busy_s: time the device was kept busy.
    """

    visits_us: tuple[Values, ...]
    failed: Mapping[int, str]
    reference_us: float
    visits: int
    interrupted: int
    drifted: int
    busy_s: float


@dataclass(frozen=True)
class Pass(_Visited):
    """One batch of models visited together in one process.

    Attributes:
        ratios: one a model, its median time over the reference's; None where too few visits were left undisturbed.
        colds: the same of an inference when the caches are full of other data.
        resident_kb: one a model; None where the device does not tell.
        references_us: the reference's visits.
    """

    ratios: tuple[float | None, ...]
    colds: tuple[float | None, ...]
    resident_kb: tuple[float | None, ...]
    references_us: Values


@dataclass(frozen=True)
class Rounds(_Visited):
    """What all passes over a batch gave together; the counts are sums.

    Attributes:
        ratios: one a model; None only where it cannot be run.
        delegated: of phones, one a model: how much of it the delegate took, "full", "partial" or "none"; None where
            benchmark_model does not say.
        steadiness: of the device meanwhile.
        slowed: by which share the reference was slower than at its fastest, see `steadiness.slowed`.
    """

    ratios: tuple[Ratio | None, ...]
    delegated: tuple[str | None, ...] = ()
    steadiness: Steadiness = STEADY
    slowed: float = 0.0


def read_pass(answer: Mapping[str, Any], models: int, busy_s: float) -> Pass:
    """Check what a device's `measure` answered, and reduce it.

    Args:
        answer: as the agent's `measure` describes it.
        models: how many were asked for.
        busy_s: how long the device took.

    Raises:
        DeviceError: a value that no clock gives: NaN, infinite, zero or negative, or the wrong number of them.
    """
    try:
        failed = {int(index): str(reason) for index, reason in answer["failed"].items()}
        measured = list(answer["models"])
        if len(measured) != models or not all(0 <= index < models for index in failed):
            raise ValueError(f"{models} models expected, {len(measured)} came")
        reference = _times(answer["reference_us"])
        ratios: list[float | None] = []
        colds: list[float | None] = []
        resident: list[float | None] = []
        visits: list[Values] = []
        for index, model in enumerate(measured):
            if index in failed:
                times = cold = around = np.empty(0)
                kept_kb = None
            else:
                times, cold, around = (_times(model[name]) for name in ("visits_us", "cold_us", "around_us"))
                kept_kb = model["resident_kb"]
            if not times.shape == cold.shape == around.shape:
                raise ValueError(f"{len(times)}, {len(cold)} and {len(around)} visits of model {index}")
            enough = len(times) >= LEAST_VISITS
            ratios.append(float(np.median(times / around)) if enough else None)
            colds.append(float(np.median(cold / around)) if enough else None)
            resident.append(None if kept_kb is None else _memory_kb(kept_kb))
            visits.append(times)
        tried, interrupted, drifted = (int(answer[name]) for name in ("visits", "interrupted", "drifted"))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DeviceError(f"The device's answer to 'measure' makes no sense: {error!r}.") from None
    if reference.size == 0:
        raise DeviceError("The device reported no time of the reference model.")
    return Pass(
        ratios=tuple(ratios),
        colds=tuple(colds),
        resident_kb=tuple(resident),
        visits_us=tuple(visits),
        failed=failed,
        reference_us=float(np.median(reference)),
        visits=tried,
        interrupted=interrupted,
        drifted=drifted,
        busy_s=busy_s,
        references_us=reference,
    )


def _memory_kb(value: Any) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise DeviceError("The device reported a size that no memory has; nothing was kept.")
    return float(value)


def _times(values: Any) -> Values:
    times = np.array(values, dtype=float)
    if times.ndim != 1:
        raise ValueError("a list of times expected")
    if times.size and not (np.isfinite(times).all() and (times > 0).all()):
        raise DeviceError("The device reported a time that is not positive and finite; nothing was kept.")
    return times


def half_width(ratios: Sequence[float]) -> float:
    """1.96 standard errors of the mean of passes, as a share of it; infinite for a single one.

    Of many passes that is the 95% confidence interval's; of three, for errors of the normal distribution, an 81% one's.
    """
    if len(ratios) < 2:
        return math.inf
    return float(1.96 * np.std(ratios, ddof=1) / math.sqrt(len(ratios)) / np.mean(ratios))


def median_interval(times: Values) -> tuple[float, float]:
    """The 95% confidence interval of a median, by bootstrap."""
    rng = np.random.default_rng(0)
    low, high = np.percentile(np.median(rng.choice(times, (1000, len(times))), axis=1), [2.5, 97.5])
    return float(low), float(high)


def measure_rounds(
    agent: Agent,
    models: Sequence[str],
    reference: str,
    *,
    runtime: str,
    threads: int,
    cores: Sequence[int] | None,
    expected_us: float | None = None,
    tries: int = TRIES,
    waiting: Callable[[int, int], None] = lambda attempt, tries: None,
) -> Rounds:
    """Measure models on a device, pass after pass, until each is known; after a pass that was disturbed it waits.

    A device that does not come to rest is measured all the same, as one that is busy: `steadiness` says so.

    Args:
        agent: on the device.
        models, reference: paths there.
        runtime, threads, cores: of the inferences.
        expected_us: what the reference took earlier; None where nobody knows.
        tries: disturbed passes before it is measured as busy.
        waiting: told (attempt, of) before each wait.

    Returns:
        a ratio for every model that can be run.

    Raises:
        DeviceError: not even so many visits are left alone that a value could be given; the text says by what.
    """
    batch = _Batch(agent, models, reference, runtime, threads, cores, expected_us)
    batch.busy = pass_until_known(batch.unknown, batch.visit, batch.complaint, waiting, tries)
    return batch.result()


def pass_until_known(
    unknown: Callable[[], list[int]],
    visit: Callable[[Sequence[int], bool], bool],
    complaint: Callable[[int], str],
    waiting: Callable[[int, int], None],
    tries: int = TRIES,
) -> bool:
    """Visit models, pass after pass, until each is known; after a pass that was disturbed it waits.

    After `tries` such passes the device is taken for one that is busy all the time: then nothing is waited for, and
    visits count that did not lose their core themselves.

    Args:
        unknown: the models that need another pass.
        visit: one pass over some of them, the device taken for busy or not; whether most gave a value.
        complaint: why so many models cannot be measured now.
        waiting: told (attempt, of) before each wait.

    Returns:
        whether it was taken for busy.

    Raises:
        DeviceError: a busy device's visits gave too little as often; the text is the complaint.
    """
    disturbed, busy = 0, False
    while todo := unknown():
        if visit(todo, busy):
            continue
        disturbed += 1
        if busy and disturbed == BUSY_TRIES:
            raise DeviceError(complaint(len(todo)))
        if not busy and disturbed >= tries:
            disturbed, busy = 0, True
        elif not busy:
            waiting(disturbed, tries)
            machine.sleep(min(2.0**disturbed, LONGEST_WAIT_S))
    return busy


def still_unknown(ratios: Sequence[Sequence[float]], failed: Collection[int]) -> list[int]:
    """The models that need another pass, given the ratios of each so far and those that cannot be run."""
    return [
        index
        for index, found in enumerate(ratios)
        if index not in failed
        and len(found) < MOST_PASSES
        and (len(found) < LEAST_PASSES or half_width(found) > HALF_WIDTH)
    ]


@dataclass
class _Batch:
    """The passes over a batch so far."""

    agent: Agent
    models: Sequence[str]
    reference: str
    runtime: str
    threads: int
    cores: Sequence[int] | None
    expected_us: float | None

    def __post_init__(self) -> None:
        self.passes: list[Pass] = []
        self.busy = False
        self.failed: dict[int, str] = {}
        self.ratios: list[list[float]] = [[] for _ in self.models]
        self.colds: list[list[float]] = [[] for _ in self.models]
        self.times: list[list[Values]] = [[] for _ in self.models]
        self.resident: list[list[float]] = [[] for _ in self.models]

    def unknown(self) -> list[int]:
        """The models that need another pass."""
        return still_unknown(self.ratios, self.failed)

    def visit(self, todo: Sequence[int], busy: bool) -> bool:
        """One pass over some models; whether most of them gave a value."""
        start = time.monotonic()
        answer = self.agent.call(
            "measure",
            timeout_s=SILENCE_S,
            models=[self.models[index] for index in todo],
            reference=self.reference,
            visits=VISITS,
            threads=self.threads,
            runtime=self.runtime,
            expected_us=self.expected_us,
            cores=list(self.cores) if self.cores is not None else None,
            seed=len(self.passes),
            busy=busy,
        )
        done = read_pass(answer, len(todo), time.monotonic() - start)
        self.passes.append(done)
        self.failed |= {todo[index]: reason for index, reason in done.failed.items()}
        good = 0
        for place, index in enumerate(todo):
            ratio, cold = done.ratios[place], done.colds[place]
            if ratio is not None and cold is not None:
                self.ratios[index].append(ratio)
                self.colds[index].append(cold)
                self.times[index].append(done.visits_us[place])
                kept_kb = done.resident_kb[place]
                self.resident[index] += [] if kept_kb is None else [kept_kb]
                good += 1
        return good + len(done.failed) > len(todo) / 2

    def result(self) -> Rounds:
        """All passes together."""
        ratios = [
            Ratio(float(np.mean(ratios)), half_width(ratios), float(np.mean(colds)), min(resident, default=None))
            if ratios
            else None
            for ratios, colds, resident in zip(self.ratios, self.colds, self.resident, strict=True)
        ]
        return Rounds(
            ratios=tuple(ratios),
            visits_us=tuple(np.concatenate(times) if times else np.empty(0) for times in self.times),
            failed=self.failed,
            reference_us=float(np.median([done.reference_us for done in self.passes])),
            visits=sum(done.visits for done in self.passes),
            interrupted=sum(done.interrupted for done in self.passes),
            drifted=sum(done.drifted for done in self.passes),
            busy_s=sum(done.busy_s for done in self.passes),
            steadiness=self._steadiness(),
            slowed=slowed(np.concatenate([done.references_us for done in self.passes])),
        )

    def _steadiness(self) -> Steadiness:
        visits = max(1, sum(done.visits for done in self.passes))
        return Steadiness(
            disturbed=self.busy,
            interrupted=sum(done.interrupted for done in self.passes) / visits,
            moved=sum(done.drifted for done in self.passes) / visits,
            busy=self.agent.health() if self.busy else "",
        )

    def complaint(self, missing: int) -> str:
        """Why the device cannot be measured at all, as far as it can tell."""
        found = self._steadiness()
        text = (
            f"{self.agent.device.name} is too unsteady to measure: {missing} models are without enough undisturbed "
            f"visits; {found.interrupted:.0%} of all visits lost their core to another process, {found.moved:.0%} had "
            "a reference model beside them that had moved"
        )
        if self.expected_us is not None:
            text += f" (it took {self.passes[-1].reference_us / self.expected_us:.2f} times what it took before)"
        return (
            f"{text}. {self.agent.health()} Stop what else runs there, or let it cool, and try again: it goes on where "
            "it was."
        )
