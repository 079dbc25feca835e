"""How long candidates are trained: as long as the first ones need to do better than guessing, then the same for all."""

from collections.abc import Callable, Sequence

from edgenas.errors import CheckFailedError, counted
from edgenas.evaluation.data import above_chance
from edgenas.evaluation.evaluator import Evaluated, Evaluator
from edgenas.evaluation.recipe import Candidate
from edgenas.ledger import Ledger

RUNGS = (256, 512, 1024)
RAISE = 4  # times the last rung's steps, once
CLEARLY = 4.5  # standard errors above a guess, below the last rung: others may learn more slowly than the first ones
EVENT = "fidelity_chosen"

Say = Callable[[str], None]


def learned(evaluated: Evaluated, errors: float = 3.0) -> bool:
    """Whether a candidate did better than guessing, by so many standard errors; True where nobody said what that is."""
    values = evaluated.values
    return values is None or "chance" not in values or above_chance(values, errors)


def choose_steps(
    evaluator: Evaluator, first: Sequence[Candidate], asked: int | None, ledger: Ledger, say: Say
) -> tuple[int, dict[str, Evaluated]]:
    """How many steps every candidate of a study gets, and what is known of the first ones with so many.

    They are tried with more and more steps until each did clearly better than guessing; on the last rung better by
    three standard errors is enough; where none is, they get `RAISE` times as many, once.

    Args:
        evaluator: evaluates them.
        first: networks that any study of this kind would try.
        asked: the steps to begin with, if somebody has asked for some.
        ledger: gets `fidelity_chosen`; a study that goes on takes what is there.
        say: told what is being done.

    Returns:
        The steps; results by the network's id, where they are of so many steps.

    Raises:
        CheckFailedError: none of them did better than guessing even so.
    """
    chosen = ledger.entries(EVENT)
    if chosen:
        return int(chosen[-1]["steps"]), {}
    rungs = RUNGS if asked is None else (asked,)
    waiting, known, tried = list(first), {}, len(first)
    for steps in (*rungs, rungs[-1] * RAISE):
        if steps <= rungs[-1]:
            say(f"How long do candidates need? {counted(len(waiting), 'first network')}, {steps} steps ...")
        found = dict(zip(waiting, evaluator.evaluate(waiting, steps), strict=True))
        tried -= sum(evaluated.values is None for evaluated in found.values())
        known = {candidate.architecture.id: evaluated for candidate, evaluated in found.items()}
        errors = CLEARLY if steps < rungs[-1] else 3.0
        waiting = [candidate for candidate, evaluated in found.items() if not learned(evaluated, errors)]
        if not waiting or (steps >= rungs[-1] and len(waiting) < tried):
            ledger.append(EVENT, steps=steps)
            say(f"Better than guessing: every candidate gets {steps} steps.")
            return steps, known
        if steps == rungs[-1]:
            say(f"After {steps} steps the first networks are no better than guessing: once more, with {RAISE * steps}.")
    worst = next(iter(found.values())).values or {}
    raise CheckFailedError(
        f"After {steps} steps networks drawn by hand are no better than guessing (balanced accuracy "
        f"{worst['balanced_accuracy']:.1%} on {worst['n']} images held out; a guess gets {worst['chance']:.1%}): "
        "nothing that a search found on these data would mean anything. Look at them with `edgenas data check`: are "
        "the labels right, and can what tells the classes apart be seen at this --input? If so, try a larger --input "
        "or more data."
    )
