"""Optuna's own samplers."""

from typing import TYPE_CHECKING

import numpy as np

from edgenas.errors import InputError, near

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

STRATEGIES = ("random", "nsga2", "tpe")


def resolve_strategy(name: str, trials: int) -> str:
    """The strategy that `auto` means for a budget; any other name stands for itself.

    On NAS-Bench-Macro TPE led NSGA-II up to 100 evaluations and fell behind at 200.
    """
    if name == "auto":
        return "tpe" if trials <= 100 else "nsga2"
    if name not in STRATEGIES:
        raise InputError(f"There is no strategy {name!r}. {near(name, ('auto', *STRATEGIES))}")
    return name


def make_sampler(name: str, trials: int, seed: tuple[int, ...]) -> "BaseSampler":
    """A sampler for one proposal.

    Args:
        name: "random", "nsga2" or "tpe".
        trials: the budget. NSGA-II's default population of 50 would make 50 trials a random search.
        seed: of this proposal alone, so that a study that goes on after a break proposes what it would have.
    """
    from optuna.samplers import NSGAIISampler, RandomSampler, TPESampler

    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    if name == "random":
        return RandomSampler(seed=number)
    if name == "nsga2":
        return NSGAIISampler(population_size=int(np.clip(trials // 5, 4, 50)), seed=number)
    return TPESampler(n_startup_trials=int(np.clip(trials // 4, 4, 20)), multivariate=True, seed=number)
