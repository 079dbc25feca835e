"""The study: the one place that asks Optuna for candidates and tells it what they are worth.

A trial is stored when its candidate is evaluated, whole, in one transaction. Each proposal follows from what is stored
and from (study seed, trial number) alone. So a study that is killed at any point proposes, when it goes on, what it
would have proposed; and nothing that breaks a limit, or is known already, ever becomes a trial.
"""

import contextlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import edgenas.files as files
from edgenas.architecture import Architecture
from edgenas.errors import EdgeNASError, InputError, reading
from edgenas.evaluation.evaluator import Evaluated, Evaluator
from edgenas.evaluation.recipe import Candidate
from edgenas.ledger import Ledger
from edgenas.space import Codes, MobileSpace
from edgenas.space.baselines import hand_made_within
from edgenas.strategy.fidelity import Say, choose_steps, learned
from edgenas.strategy.front import Front, Point
from edgenas.strategy.objectives import FreeObjectives
from edgenas.strategy.samplers import make_sampler, resolve_strategy
from edgenas.strategy.settings import Settings, study_folder

if TYPE_CHECKING:
    import optuna

OBJECTIVES: dict[str, Literal["maximize", "minimize"]] = {
    "accuracy": "maximize",
    "latency_ms": "minimize",
    "peak_memory_kb": "minimize",
}
MOST_PROPOSALS_A_TRIAL = 50
BATCH = 4  # candidates proposed together, on any machine, so that what is proposed does not depend on its cores
# The first trials are networks drawn by hand: so many, and at most half of the trials.
HAND_MADE = 6
# After so many known candidates in a row the sampler has converged: neighbours of its proposal are tried instead.
PATIENCE = 8


@dataclass(frozen=True)
class Proposal:
    """A candidate that keeps the limits and is new, and what was thrown away on the way to it."""

    code: Codes
    system: dict[str, Any]  # the sampler's own notes on it, such as NSGA-II's generation
    infeasible: int
    duplicate: int
    name: str | None = None  # of a network drawn by hand


@dataclass(frozen=True)
class TrialReport:
    """Where a study stands after a trial.

    `best` is the most accurate network so far, whatever is tied with it.
    """

    number: int
    complete: int
    trials: int
    failed: int
    point: Point | None
    error: str | None
    best: Point | None
    seconds: float
    left_s: float


class StoredStudy:
    """What a study has found, as it lies on disk. Looking at it makes nothing.

    Raises:
        InputError: its database is not there, or holds another study.
    """

    _may_create = False

    def __init__(self, name: str) -> None:
        self.folder = study_folder(name)
        self.ledger = Ledger(self.folder / "ledger.jsonl")
        self._stored = open_storage(self.folder, name, self._may_create)

    @property
    def front(self) -> Front:
        """The front so far."""
        return Front(self.points)

    @property
    def points(self) -> list[Point]:
        """Every complete trial."""
        return points_of(self._stored)

    def counts(self) -> dict[str, Any]:
        """What became of the proposals so far; see `counts`."""
        return counts(self._stored)


class Study(StoredStudy):
    """A study that can go on.

    Args:
        settings: what is searched for.
        space: where.
        free: its free objectives and limits.

    Raises:
        InputError: it has had trials, and its database is not there, or holds another study.
    """

    _may_create = True

    def __init__(self, settings: Settings, space: MobileSpace, free: FreeObjectives) -> None:
        super().__init__(settings.study)
        self.settings = settings
        self.space = space
        self._free = free
        self._strategy = resolve_strategy(settings.strategy, settings.trials)

    def run(
        self,
        evaluator: Evaluator,
        on_trial: Callable[[TrialReport], None] | None = None,
        say: Say = lambda sentence: None,
    ) -> Front:
        """Evaluate candidates until the study has as many complete trials as it was asked for.

        Raises:
            CheckFailedError: candidates do no better than guessing.
            InputError: the limits cannot be kept, or leave too few networks.
            EdgeNASError: every one of the last 10 candidates failed.
        """
        self._free.anchor  # noqa: B018  raises where no network keeps the limits
        self.ledger.append("search_began", strategy=self._strategy, **counts(self._stored))
        seconds: list[float] = []
        first = [self._candidate(code) for code in self._first()]
        steps, known = choose_steps(evaluator, first, self.settings.fidelity.steps, self.ledger, say)
        while counts(self._stored)["complete"] < self.settings.trials:
            proposals = self._propose()
            candidates = [self._candidate(proposal.code) for proposal in proposals]
            asked = [each for each in candidates if each.architecture.id not in known]
            unknown = iter(evaluator.evaluate(asked, steps))
            for proposal, candidate in zip(proposals, candidates, strict=True):
                evaluated = known.pop(candidate.architecture.id, None) or next(unknown)
                point, error = self._store(proposal, candidate.architecture, evaluated)
                seconds.append(evaluated.seconds / evaluator.at_a_time)
                self._stop_where_all_fail()
                if on_trial is not None:
                    on_trial(self._report(point, error, seconds))
        self.ledger.append("search_ended", **counts(self._stored))
        return self.front

    def _candidate(self, code: Codes) -> Candidate:
        architecture = self.space.decode(self.space.values(code))
        return Candidate(architecture, self.settings.precision, self.settings.recipe)

    def _first(self) -> list[Codes]:
        """The networks that say how long all are trained: the largest and the smallest drawn by hand."""
        drawn = sorted(self._hand_made.values(), key=lambda code: self._candidate(code).architecture.macs)
        return drawn[:: max(1, len(drawn) - 1)] if drawn else [self._free.anchor]

    def _report(self, point: Point | None, error: str | None, seconds: list[float]) -> TrialReport:
        done, front = counts(self._stored), self.front
        return TrialReport(
            number=done["complete"] + done["failed"] - 1,
            complete=done["complete"],
            trials=self.settings.trials,
            failed=done["failed"],
            point=point,
            error=error,
            best=max(front, key=lambda each: each.accuracy, default=None),
            seconds=seconds[-1],
            left_s=float(np.mean(seconds)) * (self.settings.trials - done["complete"]),
        )

    def _propose(self) -> list[Proposal]:
        """The candidates of the trials up to the end of a batch of `BATCH`: none knows the results of the others."""
        done = counts(self._stored)
        number = done["complete"] + done["failed"]
        end = min(number - number % BATCH + BATCH, number + self.settings.trials - done["complete"])
        known = {tuple(row) for row in self._codes()}
        proposals, made = done["proposals"], list[Proposal]()
        for each in range(number, end):
            try:
                proposal = self._one(each, proposals, known)
            except InputError:
                if made:
                    break
                raise
            known.add(tuple(proposal.code))
            proposals += proposal.infeasible + proposal.duplicate + 1
            made.append(proposal)
        return made

    def _one(self, number: int, proposals: int, known: set[tuple[int, ...]]) -> Proposal:
        """The candidate of trial `number`: not one of those known."""
        shadow = self._shadow(number - number % BATCH)
        infeasible = duplicate = 0
        code, system = None, {}
        while proposals + infeasible + duplicate < MOST_PROPOSALS_A_TRIAL * self.settings.trials:
            attempt = infeasible + duplicate
            rng = np.random.default_rng([self.settings.seed, number, attempt])
            if code is None or duplicate < PATIENCE:
                shadow.sampler = make_sampler(
                    self._strategy, self.settings.trials, (self.settings.seed, number, attempt)
                )
                trial = shadow.ask(self.space.distributions())
                code = self.space.codes(trial.params)
                system = dict(shadow.get_trials(deepcopy=False)[trial.number].system_attrs)
                shadow.tell(trial, state=_failed())
                for name, drawn in self._hand_made.items():
                    if tuple(drawn) not in known:
                        return Proposal(drawn, system, 0, 0, name)
            else:
                code = self.space.mutate(code[None], rng, rate=min(0.02 * (duplicate - PATIENCE + 1), 0.3))[0]
            if self._free.excess(code[None])[0] > 0:
                infeasible += 1
                code = self.space.repair(code[None], self._free.excess, rng, self._free.anchor)[0]
            if tuple(code) not in known:
                return Proposal(code, system, infeasible, duplicate)
            duplicate += 1
        raise InputError(
            f"After {proposals + infeasible + duplicate} proposals no new network that keeps the limits was found: "
            f"they leave about {len(known)} networks. Loosen a limit or ask for fewer trials."
        )

    @cached_property
    def _hand_made(self) -> dict[str, Codes]:
        """Networks that a person would draw, within the limits: they are tried first."""
        return hand_made_within(self.space, self._free.excess, min(HAND_MADE, self.settings.trials // 2))

    def _store(
        self, proposal: Proposal, architecture: Architecture, evaluated: Evaluated
    ) -> tuple[Point | None, str | None]:
        from optuna.trial import TrialState, create_trial

        free = self._free.describe(proposal.code)
        accuracy = evaluated.values[self.settings.metric] if evaluated.values else math.nan
        values = [accuracy, free["latency_ms"], free["peak_memory_kb"]]
        error = evaluated.error
        if error is None and not all(map(math.isfinite, values)):
            error = f"a value is not finite: {dict(zip(OBJECTIVES, values, strict=True))}"
        notes = {
            "id": architecture.id,
            "notation": str(architecture),
            "infeasible": proposal.infeasible,
            "duplicate": proposal.duplicate,
            "hand_made": proposal.name,
            "learned": learned(evaluated),
            "interval": (evaluated.values or {}).get(f"{self.settings.metric}_interval"),
            "seconds": evaluated.seconds,
            "error": error,
            **free,
            **(evaluated.values or {}),
        }
        trial = create_trial(
            state=_failed() if error else TrialState.COMPLETE,
            values=None if error else values,
            params=self.space.values(proposal.code),
            distributions=self.space.distributions(),
            user_attrs=notes,
            system_attrs=proposal.system,
        )
        with _reading():
            self._stored.add_trial(trial)
        self.ledger.append(
            "trial", id=architecture.id, seconds=evaluated.seconds, error=error, accuracy=None if error else accuracy
        )
        points = {point.id: point for point in points_of(self._stored)}
        return points.get(architecture.id), error

    def _shadow(self, trials: int) -> "optuna.Study":
        """A study in memory with the first so many trials of the stored one: asking it leaves no trace on disk."""
        import optuna

        shadow = optuna.create_study(directions=list(OBJECTIVES.values()))
        shadow.add_trials(self._stored.get_trials(deepcopy=False)[:trials])
        return shadow

    def _codes(self) -> list[Codes]:
        return [self.space.codes(trial.params) for trial in self._stored.get_trials(deepcopy=False)]

    def _stop_where_all_fail(self) -> None:
        last = self._stored.get_trials(deepcopy=False)[-10:]
        if len(last) == 10 and all(trial.state == _failed() for trial in last):
            raise EdgeNASError(
                f"The last 10 candidates all failed; the last one because {last[-1].user_attrs['error']}. "
                f"{self.folder / 'ledger.jsonl'} lists them."
            )


def open_storage(folder: Path, name: str, create: bool = False) -> "optuna.Study":
    """The Optuna study of a folder, in SQLite.

    Args:
        create: make it where there is none.

    Raises:
        InputError: networks were tried, and it is not there: its database was lost, or the folder was renamed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / "study.db"
    remedy = f"Put it back from a copy, or begin anew: edgenas study remove {name}, then edgenas search"
    if os.path.lexists(path) and not path.is_file():
        raise InputError(f"The database {path} of the study {name!r} is no file. {remedy}.")
    directions, tried = list(OBJECTIVES.values()), _was_tried(folder)
    if not path.is_file() or path.stat().st_size == 0:
        if tried:
            raise InputError(f"The study {name!r} has lost its database: {path} is not there, or empty. {remedy}.")
        if not create:
            return optuna.create_study(study_name=name, directions=directions)  # in memory: there is nothing yet
    folder.mkdir(parents=True, exist_ok=True)
    with _reading(f"The database {path}"):
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", skip_table_creation=not create)
        known = optuna.get_all_study_names(storage)
        if name in known:
            return optuna.load_study(study_name=name, storage=storage)
        if known or tried or not create:
            raise InputError(
                f"The database {path} holds {' and '.join(map(repr, known)) or 'no study'}, not the study {name!r}. "
                + (f"Was the folder renamed? Call it studies/{known[0]} again." if known else f"{remedy}.")
            )
        return optuna.create_study(storage=storage, study_name=name, directions=directions)


def _was_tried(folder: Path) -> bool:
    """Whether a study has had networks, whatever its database says."""
    return bool(Ledger(folder / "ledger.jsonl").entries("trial")) or (folder / "bundles").is_dir()


def _reading(what: str = "The study's database") -> contextlib.AbstractContextManager[None]:
    return reading(what, "Put it back from a copy, or begin anew: edgenas study remove STUDY, then edgenas search.")


def points_of(study: "optuna.Study") -> list[Point]:
    """Every complete trial as a point.

    Raises:
        InputError: the database holds something else.
    """
    with _reading():
        trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
        found = [_stored(trial) for trial in trials]
    return [files.from_mapping(Point, values, f"The study's trial {values['trial']}") for values in found]


def _stored(trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    """A point's values, as a database holds them."""
    notes = trial.user_attrs
    return {
        "id": notes["id"],
        "notation": notes["notation"],
        "accuracy": trial.values[0],
        "latency_ms": notes["latency_ms"],
        "latency_interval_ms": (notes["latency_low_ms"], notes["latency_high_ms"]),
        "arena_kb": notes["arena_kb"],
        "model_kb": notes["model_kb"],
        "peak_memory_kb": notes["peak_memory_kb"],
        "trial": trial.number,
        "seconds": notes["seconds"],
        "name": notes.get("hand_made"),
        "accuracy_interval": notes.get("interval"),
        "right": notes.get("right", ""),
        "images": notes.get("n", 0),
        "learned": notes.get("learned", True),
    }


def counts(study: "optuna.Study") -> dict[str, Any]:
    """complete and failed trials; infeasible and duplicate proposals that became none; all proposals; seconds."""
    with _reading():
        trials = study.get_trials(deepcopy=False)
        infeasible = sum(trial.user_attrs["infeasible"] for trial in trials)
        duplicate = sum(trial.user_attrs["duplicate"] for trial in trials)
        complete = sum(trial.state.name == "COMPLETE" for trial in trials)
        seconds = round(sum(trial.user_attrs["seconds"] for trial in trials), 1)
    return {
        "complete": complete,
        "failed": len(trials) - complete,
        "infeasible": infeasible,
        "duplicate": duplicate,
        "proposals": infeasible + duplicate + len(trials),
        "seconds": seconds,
    }


def _failed() -> "optuna.trial.TrialState":
    from optuna.trial import TrialState

    return TrialState.FAIL
