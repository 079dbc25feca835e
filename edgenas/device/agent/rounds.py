"""Latencies in interleaved rounds, with a reference model in every round.

A visit is a few inferences of one model in a row. It counts where nothing took the cores away from it, and where the
reference's visits before and after it agree: a device that drifts, throttles or works for somebody else gives fewer
visits, not other numbers.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from typing import Any

from . import bounding, machine
from .children import Died, in_child
from .context import Context, OperationError
from .inspection import memory_kb
from .running import Model, bind, import_runtime, refuse_threads

_SPARE_KB = 64 * 1024  # left free on the device while a batch is loaded
_VISIT_US = 200  # a visit lasts this long or more
_REFERENCE_VISIT_US = 1000  # longer than a model's: what happens to it decides about its neighbours
_REFERENCE_EVERY = 16  # models
_SETTLING = 15  # visits of the reference before the first round: caches, frequency
_CALM = 0.10  # the reference before and after a group of visits differs by at most this share
_CALM_BUSY = 0.5  # the same on a device that others use all the time
_SLOWEST = 1.5  # the reference may take this many times what the session expects
_INTERRUPTIONS_PER_S = 40  # of visiting: more of them, and somebody else is at work
_ROUNDS_A_VISIT = 3  # rounds tried for each visit that is wanted
_ROUNDS_A_VISIT_BUSY = 12  # the same on a device that others use all the time
_SLOW_US = 5000  # an inference that takes longer needs half the visits


def measure(
    context: Context,
    models: list[str],
    reference: str,
    visits: int,
    threads: int = 1,
    runtime: str = "ai-edge-litert",
    expected_us: float | None = None,
    cores: list[int] | None = None,
    seed: int = 0,
    busy: bool = False,
) -> dict[str, Any]:
    """Visit each model once a round, in a shuffled order, the reference model between them, until each has `visits`
    undisturbed ones (half as many where an inference is slow), or as many as three times the rounds gave.

    `busy`: the device does not keep still; visits count that kept their core between two of the reference that kept it
    and agree within bounds. `expected_us` is what the reference took earlier in the session. One call is one pass: all
    models are loaded anew, for where their buffers land moves a model's time by a percent or two.

    Returns `models`, one a model: `visits_us`, what the first inference of each visit took, with the caches full of
    other data (`cold_us`), and the mean of the reference's visits around each (`around_us`); `first_us`, `load_us`,
    `repeats`, `resident_kb`. None for one that cannot be loaded or that kills its process, which is named in
    `failed` (index -> reason). `reference_us` holds the reference's visits; `visits`, `interrupted` and `drifted` count
    the visits tried, and those that were dropped because the process lost its core or the reference had moved.
    """
    refuse_threads(threads)
    import_runtime(context, runtime)
    plan = {
        "models": models, "reference": reference, "visits": visits, "threads": threads, "runtime": runtime,
        "expected_us": expected_us, "cores": cores, "seed": seed, "busy": busy,
    }  # fmt: skip
    answer: dict[str, Any] = {
        "models": [None] * len(models), "failed": {}, "reference_us": [], "visits": 0, "interrupted": 0, "drifted": 0,
    }  # fmt: skip
    reference_is_fine = False
    batches = [list(range(len(models)))]
    while batches:
        batch = batches.pop()
        try:
            done = in_child(
                context.stdin,
                _measure_batch,
                plan,
                batch,
                progress=context.progress,
                most_kb=bounding.share_kb(memory_kb()[0]),
            )
        except Died as death:
            if not reference_is_fine:
                _try_reference(context, plan)
                reference_is_fine = True
            if len(batch) == 1:
                answer["failed"][batch[0]] = death.reason
            else:
                middle = len(batch) // 2
                batches += [batch[middle:], batch[:middle]]
            continue
        except RuntimeError as error:
            raise OperationError("bad_reference", f"the reference model cannot be measured: {error}") from None
        for index, result in done["results"].items():
            answer["models"][int(index)] = result
        answer["failed"].update({int(index): reason for index, reason in done["failed"].items()})
        for count in ("reference_us", "visits", "interrupted", "drifted"):
            answer[count] += done[count]
        if done["left"]:
            batches.append(done["left"])
    return answer


def _try_reference(context: Context, plan: dict[str, Any]) -> None:
    try:
        in_child(context.stdin, _measure_batch, dict(plan, visits=0), [], most_kb=bounding.share_kb(memory_kb()[0]))
    except (Died, RuntimeError) as error:
        raise OperationError("bad_reference", f"the reference model cannot be measured: {error}") from None


def _measure_batch(report: Callable[..., None], plan: dict[str, Any], batch: list[int]) -> dict[str, Any]:
    """In the child: load what fits in memory, then the rounds. What did not fit is returned in `left`."""
    bind(plan["cores"])

    def load(index: int, path: str, min_visit_us: float) -> Model:
        model = Model(plan["runtime"], path, plan["threads"], plan["seed"] + index)
        model.warm_up(min_visit_us)
        return model

    reference = load(0, plan["reference"], _REFERENCE_VISIT_US)
    loaded: dict[int, Model] = {}
    failed: dict[int, str] = {}
    left: list[int] = []
    for position, index in enumerate(batch):
        if loaded and _is_full():
            left = batch[position:]
            break
        try:
            loaded[index] = load(index, plan["models"][index], _VISIT_US)
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            if loaded and bounding.left_kb() is not None:  # the others may have taken what this one needs
                left = batch[position:]
                break
            failed[index] = f"invalid model: {error}"
    rounds = _Rounds(plan, reference, loaded)
    rounds.run(report)
    results = {
        index: {
            "visits_us": [us for us, _, _ in rounds.kept[index]],
            "cold_us": [cold_us for _, cold_us, _ in rounds.kept[index]],
            "around_us": [around for _, _, around in rounds.kept[index]],
            "first_us": model.first_us,
            "load_us": model.load_us,
            "resident_kb": model.resident_kb,
            "repeats": model.repeats,
        }
        for index, model in loaded.items()
    }
    return {
        "results": results, "failed": failed, "left": left, "reference_us": rounds.reference_us,
        "visits": rounds.visits, "interrupted": rounds.interrupted, "drifted": rounds.drifted,
    }  # fmt: skip


def _is_full() -> bool:
    """Whether the next model waits for another batch: little memory is left, or little of this process' part."""
    total_kb, free_kb = memory_kb()
    left_kb = bounding.left_kb()
    return 0 < free_kb < _SPARE_KB or (left_kb is not None and left_kb < bounding.share_kb(total_kb) // 2)


class _Rounds:
    """The rounds of one batch."""

    def __init__(self, plan: dict[str, Any], reference: Model, loaded: dict[int, Model]) -> None:
        self._plan = plan
        self._busy = bool(plan.get("busy"))
        self._reference = reference
        self._loaded = loaded
        self._shuffler = random.Random(plan["seed"])
        self.kept: dict[int, list[tuple[float, float, float]]] = {index: [] for index in loaded}
        self.reference_us: list[float] = []
        self.visits = self.interrupted = self.drifted = 0

    def run(self, report: Callable[..., None]) -> None:
        """Visit every model until it has been visited often enough."""
        gc.collect()
        gc.disable()
        settling = [self._reference.visit()[0] for _ in range(_SETTLING)]
        expected = self._plan["expected_us"] or _median(settling)
        waiting = list(self._loaded)
        if not waiting:
            self.reference_us = settling
        rounds_a_visit = _ROUNDS_A_VISIT_BUSY if self._busy else _ROUNDS_A_VISIT
        for number in range(1, rounds_a_visit * self._plan["visits"] + 1):
            waiting = [index for index in waiting if len(self.kept[index]) < self._wanted(index)]
            if not waiting:
                break
            self._shuffler.shuffle(waiting)
            self._round(waiting, expected)
            report(round=number, left=len(waiting), models=len(self._loaded))

    def _wanted(self, index: int) -> int:
        kept = self.kept[index]
        slow = bool(kept) and kept[0][0] > _SLOW_US
        return (self._plan["visits"] + 1) // 2 if slow else int(self._plan["visits"])

    def _round(self, order: list[int], expected: float) -> None:
        start_us, interruptions = machine.now_us(), 0
        round_kept: list[tuple[int, float, float, float]] = []
        before, lost_before = self._reference.visit()
        references = [before]
        for start in range(0, len(order), _REFERENCE_EVERY):
            group = [self._visit(index) for index in order[start : start + _REFERENCE_EVERY]]
            after, lost_after = self._reference.visit()
            references.append(after)
            self.visits += len(group)
            lost = sum(was_lost for *_, was_lost in group)
            interruptions += lost + lost_after
            self.interrupted += lost
            most = _CALM_BUSY if self._busy else _CALM
            calm = not (lost_before or lost_after) and abs(after - before) <= most * min(before, after)
            if calm and (self._busy or max(before, after) <= _SLOWEST * expected):
                around = (before + after) / 2
                round_kept += [(index, us, cold_us, around) for index, us, cold_us, was_lost in group if not was_lost]
            else:
                self.drifted += len(group) - lost
            before, lost_before = after, lost_after
        self.reference_us += references
        if not self._busy and interruptions > max(2, _INTERRUPTIONS_PER_S * (machine.now_us() - start_us) / 1e6):
            self.drifted += len(round_kept)
            return
        for index, us, cold_us, around in round_kept:
            self.kept[index].append((us, cold_us, around))

    def _visit(self, index: int) -> tuple[int, float, float, bool]:
        us, was_lost = self._loaded[index].visit()
        return index, us, self._loaded[index].cold_us, was_lost


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


OPERATIONS = {"measure": measure}
