"""What a proposal follows from: the results so far, the study's seed, and nothing else; and what is done with it."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest

from edgenas.architecture import MBConv
from edgenas.errors import InputError
from edgenas.evaluation.evaluator import Evaluated
from edgenas.evaluation.recipe import Candidate
from edgenas.latency.table import LatencyTable
from edgenas.space import MobileSpace
from edgenas.strategy import Limits, Study, study
from edgenas.strategy.objectives import FreeObjectives
from tests.strategy.conftest import Formula

pytestmark = pytest.mark.usefixtures("in_memory", "nothing_drawn_by_hand")
MakeStudy = Callable[..., Study]
every_strategy = pytest.mark.parametrize("strategy", ["random", "nsga2", "tpe"])
which_learn = pytest.mark.parametrize("strategy", ["nsga2", "tpe"])
TRIALS = 40
FIRST = {"nsga2": 8, "tpe": 10}  # of 40 trials so many are drawn at random
APART = {"nsga2": 0.15, "tpe": 0.3}


@pytest.fixture
def nothing_drawn_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked here is asked of the samplers alone: no network is tried before those that they propose."""
    monkeypatch.setattr(study, "HAND_MADE", 0)
    monkeypatch.setattr(study, "choose_steps", lambda *_: (256, {}))


def gated(candidate: Candidate) -> float:
    """The share of a network's blocks that have squeeze-and-excitation."""
    blocks = [node.block for node in candidate.architecture.nodes if isinstance(node.block, MBConv)]
    return sum(block.se_ratio > 0 for block in blocks) / len(blocks)


def proposed(make_study: MakeStudy, name: str, accuracy: Callable[[Candidate], float], **how: Any) -> list[Candidate]:
    evaluator = Formula(accuracy)
    make_study(name, trials=TRIALS, limits=Limits(), **how).run(evaluator)
    return evaluator.candidates


def trials_of(made: Study) -> list[Any]:
    return made._stored.get_trials(deepcopy=False)


@which_learn
def test_results_steer_what_is_proposed(make_study: MakeStudy, strategy: str) -> None:
    """Two studies that differ in their results alone: each goes where it found the better accuracy."""
    first, apart = FIRST[strategy], list[float]()
    for seed in range(3):  # of one alone it varies by 0.1
        sought = proposed(make_study, f"sought{seed}", gated, strategy=strategy, seed=seed)
        shunned = proposed(make_study, f"shunned{seed}", lambda one: 1 - gated(one), strategy=strategy, seed=seed)
        assert sought[:first] == shunned[:first]
        apart.append(np.mean([*map(gated, sought[first:])]) - np.mean([*map(gated, shunned[first:])]))
    assert np.mean(apart) > APART[strategy], apart  # 0 where results steer nothing


@which_learn
def test_free_objectives_steer_too(make_study: MakeStudy, strategy: str) -> None:
    """Where all are as accurate, what follows is faster than what was drawn at random."""
    made = make_study(strategy=strategy, trials=TRIALS, limits=Limits())
    made.run(Formula(lambda _: 0.5))
    latencies = [trial.values[1] for trial in trials_of(made)]
    first = FIRST[strategy]
    assert np.median(latencies[first:]) < 0.8 * np.median(latencies[:first]), latencies


def test_generations_are_stored(make_study: MakeStudy) -> None:
    """NSGA-II breeds from the generation before: it must know, after a break too, which trial is of which."""

    class Breaks(Formula):
        def one(self, candidate: Candidate) -> Evaluated:
            if len(self.seen) == 14:  # in the middle of a batch, and of the second generation
                raise KeyboardInterrupt
            return super().one(candidate)

    with pytest.raises(KeyboardInterrupt):
        make_study(trials=TRIALS).run(Breaks())
    made = make_study(trials=TRIALS)
    made.run(Formula())
    attributes = [trial.system_attrs for trial in trials_of(made)]
    found = [value for each in attributes for key, value in each.items() if key.endswith(":generation")]
    assert found == [number // 8 for number in range(TRIALS)]


@pytest.mark.parametrize(("changed", "same", "differs"), [(12, 16, 20), (16, 20, 24), (17, 20, 24)])
def test_proposals_of_a_batch_follow_from_the_batches_before(
    make_study: MakeStudy, changed: int, same: int, differs: int
) -> None:
    """From the trial `changed` on results are others: its own batch does not show it, the next one does."""

    def study_of(name: str, change: bool) -> list[Candidate]:
        evaluator = Formula(lambda candidate: gated(candidate) + 100 * (change and len(evaluator.seen) > changed))
        make_study(name, strategy="tpe", trials=24, limits=Limits()).run(evaluator)
        return evaluator.candidates

    one, other = study_of("one", False), study_of("other", True)
    assert one[:same] == other[:same]
    assert one[same:differs] != other[same:differs]


@every_strategy
def test_a_study_of_5_trials_goes_on_to_8_as_one_of_8_would_have(make_study: MakeStudy, strategy: str) -> None:
    """Of the second batch one was there: the other three don't know its result either."""
    for trials in (5, 8):
        make_study("more", strategy, trials).run(Formula())
    make_study("at-once", strategy, 8).run(Formula())
    more, at_once = (trials_of(make_study(name, strategy, 8)) for name in ("more", "at-once"))
    assert len(more) == 8
    assert [trial.user_attrs["id"] for trial in more] == [trial.user_attrs["id"] for trial in at_once]


def test_what_is_left_of_a_space_is_evaluated_before_it_is_said_to_be_all(
    make_study: MakeStudy, space: MobileSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch ends where too many proposals brought nothing new: those networks that it has are not lost."""
    drawn = space.sample(np.random.default_rng(7), 10)

    def proposing(strategy: str, trials: int, seed: tuple[int, ...]) -> Stubborn:
        """The first network again and again; but for that, every fourth proposal of a trial is new."""
        _, trial, attempt = seed
        return Stubborn(space.values(drawn[trial if attempt == 3 else 0]))

    monkeypatch.setattr(study, "make_sampler", proposing)
    monkeypatch.setattr(study, "MOST_PROPOSALS_A_TRIAL", 1)
    made, evaluator = make_study(trials=24, limits=Limits()), Formula()
    with pytest.raises(InputError, match=r"After 24 proposals no new network .* they leave about 6 networks"):
        made.run(evaluator)
    assert (space.encode([candidate.architecture for candidate in evaluator.candidates]) == drawn[:6]).all()
    assert [point.trial for point in made.points] == [*range(6)]


@every_strategy
def test_the_seed_says_what_is_proposed(make_study: MakeStudy, strategy: str) -> None:
    seen = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        evaluator = Formula()
        make_study(name, strategy, trials=12, seed=seed).run(evaluator)
        seen[name] = evaluator.seen
    assert seen["one"] == seen["same"]
    assert not set(seen["one"][:4]) & set(seen["other"][:4])  # from the first on, before any result


def test_each_trial_draws_anew(make_study: MakeStudy) -> None:
    """The proposals of one seed differ: nothing is proposed twice among so many networks."""
    made = make_study(strategy="random", trials=20, limits=Limits())
    made.run(Formula())
    assert (made.counts()["duplicate"], made.counts()["infeasible"], made.counts()["proposals"]) == (0, 0, 20)


class Stubborn(optuna.samplers.BaseSampler):
    """It proposes the same network whatever was found."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def infer_relative_search_space(self, *_: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, *_: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        return self._values[name]


def test_a_sampler_that_has_converged_is_helped_by_its_neighbours(
    make_study: MakeStudy, space: MobileSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = space.sample(np.random.default_rng(5))[0]
    monkeypatch.setattr(study, "make_sampler", lambda *_: Stubborn(space.values(code)))
    seen = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        made = make_study(name, trials=6, limits=Limits(), seed=seed)
        evaluator = Formula()
        made.run(evaluator)
        seen[name] = space.encode([candidate.architecture for candidate in evaluator.candidates])
        # It is asked so often, then neighbours are tried, ever further ones: a handful is enough.
        duplicates = [trial.user_attrs["duplicate"] for trial in trials_of(made)]
        assert duplicates[0] == 0
        assert all(study.PATIENCE <= count <= study.PATIENCE + 5 for count in duplicates[1:])
    assert (seen["one"][0] == code).all()
    assert len({tuple(row) for row in seen["one"]}) == 6
    # A choice or a few of the sampler's own network were changed, not of one after the other.
    assert ((seen["one"] != code) & space.visible(seen["one"])).sum(axis=1).max() <= 6
    assert (seen["one"] == seen["same"]).all()
    assert (seen["one"][1:] != seen["other"][1:]).any()


def test_a_proposal_that_breaks_a_limit_becomes_its_neighbour_that_keeps_it(
    make_study: MakeStudy, space: MobileSpace, half: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the sampler wanted is changed no further than needed, and is no other network altogether."""
    free = make_study("unused").__dict__["_free"]
    drawn = space.sample(np.random.default_rng(2), 50)
    code = drawn[int(np.argmax(np.where(free.excess(drawn) < 0.1, free.excess(drawn), -1)))]
    assert 0 < free.excess(code[None])[0] < 0.1
    monkeypatch.setattr(study, "make_sampler", lambda *_: Stubborn(space.values(code)))
    made = make_study(trials=1)
    (point,) = made.run(Formula())
    assert made.counts()["infeasible"] == 1
    assert point.latency_interval_ms[1] <= (half.max_latency_ms or 0)
    (repaired,) = space.encode([point.architecture])
    assert 1 <= int((repaired != code).sum()) <= len(code) // 3


def test_it_is_repaired_where_the_smallest_network_breaks_the_limit_too(
    make_study: MakeStudy, space: MobileSpace, slow_stem: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = space.smallest_code
    monkeypatch.setattr(study, "make_sampler", lambda *_: Stubborn(space.values(code)))
    limits = Limits(max_latency_ms=4.0)
    made = make_study(trials=3, limits=limits)
    made._free = FreeObjectives(space, slow_stem, "int8", limits)
    made.run(Formula())
    assert len(made.points) == 3
    assert all(point.latency_interval_ms[1] <= 4.0 for point in made.points)


def test_the_metric_of_the_study_is_what_counts(make_study: MakeStudy) -> None:
    """Front, best, ledger and sampler see the balanced accuracy where that was asked for."""
    numbers = itertools.count(1)

    class Lopsided(Formula):
        def values(self, candidate: Candidate) -> dict[str, object]:
            return {**super().values(candidate), "accuracy": 0.9, "balanced_accuracy": next(numbers) / 100}

    made = make_study(trials=5, limits=Limits(), metric="balanced_accuracy")
    made.run(Lopsided())
    assert [point.accuracy for point in made.points] == [0.01, 0.02, 0.03, 0.04, 0.05]
    assert [entry["accuracy"] for entry in made.ledger.entries("trial")] == [0.01, 0.02, 0.03, 0.04, 0.05]
    assert made.front.pick("best").trial == 4


def test_a_report_after_each_trial_says_where_the_study_stands(make_study: MakeStudy) -> None:
    class Second(Formula):
        def one(self, candidate: Candidate) -> Evaluated:
            if len(self.seen) == 2:
                return Evaluated(None, "out of memory", 10.0)
            return Evaluated(self.values(candidate), None, 10.0)

    reports: list[study.TrialReport] = []
    made = make_study(trials=3)
    made.run(Second(), reports.append)
    assert [(r.number, r.complete, r.failed, r.trials, r.error) for r in reports] == [
        (0, 1, 0, 3, None), (1, 1, 1, 3, "out of memory"), (2, 2, 1, 3, None), (3, 3, 1, 3, None),
    ]  # fmt: skip
    assert [r.point and r.point.trial for r in reports] == [0, None, 2, 3]
    most = [max(point.accuracy for point in made.points if point.trial <= r.number) for r in reports]
    assert [r.best and r.best.accuracy for r in reports] == most
    assert [r.left_s for r in reports] == [20, 20, 10, 0]
