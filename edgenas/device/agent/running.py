"""Models on the device: measured in interleaved rounds, measured alone, or run over samples."""

from __future__ import annotations

import gc
import math
import os
import random
import time
from collections.abc import Callable
from typing import Any

from .children import Died, in_child
from .context import Context, OperationError
from .inspection import RUNTIMES, memory_kb

_WARM = 3
_MOST_REPEATS = 200
_SPARE_KB = 64 * 1024  # left free on the device while a batch is loaded
_imported: dict[str, Any] = {}


def measure(
    context: Context,
    models: list[str],
    reference: str,
    rounds: int,
    threads: int = 1,
    runtime: str = "ai-edge-litert",
    min_visit_us: float = 200,
    cores: list[int] | None = None,
    seed: int = 0,
    reference_every: int = 16,
) -> dict[str, Any]:
    """Time each model once a round, in a shuffled order, the reference model between them.

    Returns `visits_us` and, for each visit, the mean of the reference's visits around it (`reference_at`), both
    [rounds][models]; `reference_us` [rounds][visits]; `first_us`, `load_us`, `repeats` by model. A model that cannot
    be loaded, or that kills the child, is None in these and named in `failed` (index -> reason).
    """
    _import(context, runtime)
    plan = {
        "models": models, "reference": reference, "rounds": rounds, "threads": threads, "runtime": runtime,
        "min_visit_us": min_visit_us, "cores": cores, "seed": seed, "reference_every": reference_every,
    }  # fmt: skip
    results: dict[int, dict[str, Any]] = {}
    failed: dict[int, str] = {}
    references: list[list[float]] = []
    growth_kb = 0
    reference_is_fine = False
    batches = [list(range(len(models)))] if models else []
    while batches:
        batch = batches.pop()
        try:
            done = in_child(context.stdin, _measure_batch, plan, batch, progress=context.progress)
        except Died as death:
            if not reference_is_fine:
                _try_reference(context, plan)
                reference_is_fine = True
            if len(batch) == 1:
                failed[batch[0]] = death.reason
            else:
                middle = len(batch) // 2
                batches += [batch[middle:], batch[:middle]]
            continue
        except RuntimeError as error:
            raise OperationError("bad_reference", f"the reference model cannot be measured: {error}") from None
        results.update({int(index): result for index, result in done["results"].items()})
        failed.update({int(index): reason for index, reason in done["failed"].items()})
        references += done["reference_us"]
        growth_kb = max(growth_kb, done["peak_rss_growth_kb"])
        if done["left"]:
            batches.append(done["left"])
    every = [results.get(index) for index in range(len(models))]
    return {
        "visits_us": _by_round(every, "visits_us", rounds),
        "reference_at": _by_round(every, "reference_at", rounds),
        "reference_us": references,
        "first_us": [result and result["first_us"] for result in every],
        "load_us": [result and result["load_us"] for result in every],
        "repeats": [result and result["repeats"] for result in every],
        "failed": failed,
        "peak_rss_growth_kb": growth_kb,
    }


def _by_round(results: list[dict[str, Any] | None], key: str, rounds: int) -> list[list[float | None]]:
    """[rounds][models], None for a model that failed."""
    return [[None if result is None else result[key][number] for result in results] for number in range(rounds)]


def _try_reference(context: Context, plan: dict[str, Any]) -> None:
    try:
        in_child(context.stdin, _measure_batch, dict(plan, rounds=1), [])
    except (Died, RuntimeError) as error:
        raise OperationError("bad_reference", f"the reference model cannot be measured: {error}") from None


def single(
    context: Context,
    model: str,
    runs: int,
    warmup: int = 3,
    threads: int = 1,
    runtime: str = "ai-edge-litert",
    cores: list[int] | None = None,
) -> dict[str, Any]:
    """One model in a fresh child: its first inference, and `runs` inferences after `warmup` others."""
    _import(context, runtime)
    return _one(context, _single, model, runs, warmup, threads, runtime, cores)


def infer(
    context: Context,
    model: str,
    inputs: str,
    outputs: str,
    threads: int = 1,
    runtime: str = "ai-edge-litert",
) -> dict[str, Any]:
    """Run a model on every row of a `.npy` file, and write its raw outputs as another."""
    _import(context, runtime)
    return _one(context, _infer, model, inputs, outputs, threads, runtime)


def _one(context: Context, work: Callable[..., Any], model: str, *arguments: Any) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = in_child(context.stdin, work, model, *arguments, progress=context.progress)
        return answer
    except Died as death:
        kind = "out_of_memory" if death.out_of_memory else "model_crashed"
        raise OperationError(kind, f"the model's process was {death.reason}") from None
    except RuntimeError as error:
        raise OperationError("bad_model", str(error)) from None


def _import(context: Context, runtime: str) -> None:
    """Import a runtime into the agent itself, once a child has shown that it survives that."""
    if runtime in _imported:
        return
    if runtime not in RUNTIMES:
        raise OperationError("no_runtime", f"the agent does not know the runtime {runtime!r}")

    def load(report: Any = None) -> Any:
        import importlib

        return importlib.import_module(RUNTIMES[runtime] + ".interpreter")

    try:
        in_child(context.stdin, lambda report: load() and None)
    except (Died, RuntimeError) as error:
        raise OperationError("no_runtime", f"{runtime} does not import: {error}") from None
    _imported[runtime] = load()


class _Model:
    """A loaded model with random inputs set, and what its loading and its first inference took."""

    def __init__(self, runtime: str, path: str, threads: int, seed: int) -> None:
        start = time.perf_counter_ns()
        self.interpreter = _imported[runtime].Interpreter(model_path=path, num_threads=threads)
        self.interpreter.allocate_tensors()
        self.load_us = _us_since(start)
        self.fill(seed)
        start = time.perf_counter_ns()
        self.interpreter.invoke()
        self.first_us = _us_since(start)
        self.repeats = 1

    def fill(self, seed: int) -> None:
        import numpy

        rng = numpy.random.default_rng(seed)
        for detail in self.interpreter.get_input_details():
            shape, dtype = detail["shape"], numpy.dtype(detail["dtype"])
            if dtype.kind == "f":
                values = rng.random(shape).astype(dtype)
            elif dtype.itemsize == 1 and dtype.kind in "iu":
                values = rng.integers(numpy.iinfo(dtype).min, 256 + numpy.iinfo(dtype).min, shape).astype(dtype)
            else:
                values = rng.integers(0, 2, shape).astype(dtype)
            self.interpreter.set_tensor(detail["index"], values)

    def warm_up(self, min_visit_us: float) -> None:
        """Choose how often to invoke it a visit."""
        self.repeats = _WARM
        time_us = self.visit()
        if time_us < min_visit_us:  # a small one was still warming up
            time_us = min(self.visit(), self.visit())
        self.repeats = min(_MOST_REPEATS, max(1, math.ceil(min_visit_us / time_us)))

    def visit(self) -> float:
        """Microseconds an inference took, a mean over `repeats` of them."""
        invoke, repeats = self.interpreter.invoke, range(self.repeats)
        start = time.perf_counter_ns()
        for _ in repeats:
            invoke()
        return max(0.001, _us_since(start) / self.repeats)


def _measure_batch(report: Callable[..., None], plan: dict[str, Any], batch: list[int]) -> dict[str, Any]:
    """In the child: load what fits in memory, then the rounds. What did not fit is returned in `left`."""
    _bind(plan["cores"])
    base_kb = _rss_kb("VmRSS")

    def load(index: int, path: str) -> _Model:
        model = _Model(plan["runtime"], path, plan["threads"], plan["seed"] + index)
        model.warm_up(plan["min_visit_us"])
        return model

    reference = load(0, plan["reference"])
    loaded: dict[int, _Model] = {}
    failed: dict[int, str] = {}
    left: list[int] = []
    for position, index in enumerate(batch):
        if loaded and 0 < memory_kb()[1] < _SPARE_KB:
            left = batch[position:]
            break
        try:
            loaded[index] = load(index, plan["models"][index])
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            failed[index] = f"invalid model: {error}"
    visits, references = _rounds(report, plan, reference, loaded)
    results = {
        index: {
            "visits_us": [value for value, _ in visits[index]],
            "reference_at": [value for _, value in visits[index]],
            "first_us": model.first_us,
            "load_us": model.load_us,
            "repeats": model.repeats,
        }
        for index, model in loaded.items()
    }
    growth = _rss_kb("VmHWM") - base_kb
    return {
        "results": results, "failed": failed, "left": left, "reference_us": references, "peak_rss_growth_kb": growth
    }  # fmt: skip


def _rounds(
    report: Callable[..., None], plan: dict[str, Any], reference: _Model, loaded: dict[int, _Model]
) -> tuple[dict[int, list[tuple[float, float]]], list[list[float]]]:
    """By model: (its time, the reference's around it) of each round; and the reference's times by round, in us."""
    shuffler = random.Random(plan["seed"])
    every = max(1, plan["reference_every"])
    visits: dict[int, list[tuple[float, float]]] = {index: [] for index in loaded}
    references: list[list[float]] = []
    order = list(loaded)
    gc.collect()
    gc.disable()
    for number in range(plan["rounds"]):
        shuffler.shuffle(order)
        times = [reference.visit()]
        for start in range(0, len(order), every):
            group = [(index, loaded[index].visit()) for index in order[start : start + every]]
            times.append(reference.visit())
            around = (times[-2] + times[-1]) / 2
            for index, value in group:
                visits[index].append((value, around))
        references.append(times)
        report(round=number + 1, rounds=plan["rounds"], models=len(order), reference_us=sum(times) / len(times))
    return visits, references


def _single(
    report: Callable[..., None], path: str, runs: int, warmup: int, threads: int, runtime: str, cores: Any
) -> dict[str, Any]:
    _bind(cores)
    base_kb = _rss_kb("VmRSS")
    model = _Model(runtime, path, threads, 0)
    for _ in range(warmup):
        model.visit()
    gc.disable()
    times = []
    told = time.monotonic()
    for number in range(runs):
        times.append(model.visit())
        if time.monotonic() - told > 1:
            told = time.monotonic()
            report(run=number + 1, runs=runs)
    return {
        "first_us": model.first_us,
        "times_us": times,
        "load_us": model.load_us,
        "peak_rss_growth_kb": _rss_kb("VmHWM") - base_kb,
        "inputs": [_tensor(detail) for detail in model.interpreter.get_input_details()],
        "outputs": [_tensor(detail) for detail in model.interpreter.get_output_details()],
    }


def _infer(
    report: Callable[..., None], path: str, inputs: str, outputs: str, threads: int, runtime: str
) -> dict[str, Any]:
    import numpy

    rows = numpy.load(inputs, allow_pickle=False)
    interpreter = _imported[runtime].Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    taken = [int(size) for size in entry["shape"][1:]]
    if list(rows.shape[1:]) != taken:
        raise ValueError(f"the model takes {taken}, the samples are {list(rows.shape[1:])}")
    answers = []
    start = told = time.monotonic()
    for number, row in enumerate(rows):
        interpreter.set_tensor(entry["index"], row[None].astype(entry["dtype"]))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(result["index"])[0])
        if time.monotonic() - told > 1:
            told = time.monotonic()
            report(row=number + 1, rows=len(rows))
    seconds = time.monotonic() - start
    empty = (0, *result["shape"][1:])
    with open(outputs, "wb") as file:  # noqa: PTH123
        numpy.save(file, numpy.stack(answers) if answers else numpy.empty(empty, result["dtype"]))
    return {"rows": len(rows), "seconds": seconds}


def _tensor(detail: dict[str, Any]) -> dict[str, Any]:
    import numpy

    scale, zero_point = detail["quantization"]
    return {
        "shape": [int(size) for size in detail["shape"]],
        "dtype": numpy.dtype(detail["dtype"]).name,
        "scale": float(scale),
        "zero_point": int(zero_point),
    }


def _bind(cores: list[int] | None) -> None:
    """Keep the child on these cores, where the system can."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def _rss_kb(key: str) -> int:
    """VmRSS (now) or VmHWM (the peak) of this process."""
    try:
        with open("/proc/self/status") as file:  # noqa: PTH123
            return next(int(line.split()[1]) for line in file if line.startswith(key + ":"))
    except (OSError, StopIteration):
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // 1024 if sys.platform == "darwin" else peak


def _us_since(start_ns: int) -> float:
    return (time.perf_counter_ns() - start_ns) / 1000


OPERATIONS = {"measure": measure, "single": single, "infer": infer}
