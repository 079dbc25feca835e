"""Models on the device: loaded, measured alone, or run over samples."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable
from typing import Any

from . import bounding, machine
from .children import Died, in_child
from .context import Context, OperationError
from .inspection import RUNTIMES, memory_kb

_WARM = 3
_MOST_REPEATS = 200
_LONG_US = 20_000
_REFERENCE_VISIT_US, _REFERENCE_EVERY = 1000, 20  # beside a model that is measured alone
_imported: dict[str, Any] = {}
_PROGRESS_US = 1_000_000  # between two lines of progress


def single(
    context: Context,
    model: str,
    runs: int,
    warmup: int = 3,
    threads: int = 1,
    runtime: str = "ai-edge-litert",
    cores: list[int] | None = None,
    reference: str | None = None,
    every_us: float = 0,
    signature: str | None = None,
    sizes: list[list[Any]] | None = None,
) -> dict[str, Any]:
    """One model in a fresh child: its first inference, and `runs` inferences after `warmup` others.

    With `every_us` one inference begins every so many microseconds and the process sleeps between them, as it does
    behind a camera. With a `reference` model, that is visited between every few inferences. Measured is the model's
    first graph, or that of a `signature`; `sizes` are [number of a tensor, its sizes] of inputs that the file leaves
    open.

    Returns `first_us`, `load_us`, `times_us` and, for each of them, whether the process lost its core (`lost`); the
    share of the time that it was `away` from its cores; `reference_us`; `peak_rss_growth_kb`; the tensors that go in
    and out.
    """
    refuse_threads(threads)
    import_runtime(context, runtime)
    plan: dict[str, Any] = {
        "model": model, "runs": runs, "warmup": warmup, "threads": threads, "runtime": runtime, "cores": cores,
        "reference": reference, "every_us": every_us, "signature": signature, "sizes": sizes,
    }  # fmt: skip
    return _one(context, _single, plan)


def infer(
    context: Context,
    model: str,
    inputs: str,
    outputs: str,
    threads: int = 1,
    runtime: str = "ai-edge-litert",
) -> dict[str, Any]:
    """Run a model on every row of a `.npy` file, and write its raw outputs as another."""
    refuse_threads(threads)
    import_runtime(context, runtime)
    return _one(context, _infer, model, inputs, outputs, threads, runtime)


def _one(context: Context, work: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = in_child(
            context.stdin, work, *arguments, progress=context.progress, most_kb=bounding.share_kb(memory_kb()[0])
        )
        return answer
    except Died as death:
        kind = "out_of_memory" if death.out_of_memory else "model_crashed"
        raise OperationError(kind, f"the model's process was {death.reason}") from None
    except RuntimeError as error:
        raise OperationError("bad_model", str(error)) from None


def refuse_threads(threads: int) -> None:
    """Raise for more threads than the device has cores: they only disturb each other, and each takes memory."""
    cores = os.cpu_count() or 1
    if type(threads) is not int or not 1 <= threads <= cores:
        raise OperationError("bad_command", f"expected 1 to {cores} threads, as many as it has cores, not {threads!r}")


def import_runtime(context: Context, runtime: str) -> None:
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


class _Signature:
    """The graph of one signature, by the methods of an interpreter: those are of a model's first graph alone.

    A runtime's own SignatureRunner copies all inputs and outputs at each call, which is no part of an inference; what
    it rests on does not.
    """

    def __init__(self, interpreter: Any, name: str) -> None:
        interpreter.allocate_tensors()  # only then do all its graphs go to XNNPACK
        self._runner = interpreter.get_signature_runner(name)
        self._inner, self._graph = interpreter._interpreter, self._runner._subgraph_index

    def get_input_details(self) -> list[Any]:
        return list(self._runner.get_input_details().values())

    def get_output_details(self) -> list[Any]:
        return list(self._runner.get_output_details().values())

    def resize_tensor_input(self, index: int, sizes: list[int], strict: bool) -> None:
        import numpy

        self._inner.ResizeInputTensor(index, numpy.array(sizes, "int32"), strict, self._graph)

    def allocate_tensors(self) -> None:
        self._inner.AllocateTensors(self._graph)

    def set_tensor(self, index: int, values: Any) -> None:
        self._inner.SetTensor(index, values, self._graph)

    def get_tensor(self, index: int) -> Any:
        return self._inner.GetTensor(index, self._graph)

    def invoke(self) -> None:
        self._inner.Invoke(self._graph)


def _interpreter(
    runtime: str, path: str, threads: int, signature: str | None = None, sizes: list[list[Any]] | None = None
) -> Any:
    """A model with its tensors made."""
    interpreter = _imported[runtime].Interpreter(model_path=path, num_threads=threads)
    if signature is not None:
        interpreter = _Signature(interpreter, signature)
    try:
        for index, wanted in sizes or []:
            interpreter.resize_tensor_input(index, wanted, strict=True)
        interpreter.allocate_tensors()
    except RuntimeError as error:  # the runtime does not say whether it lacked memory
        raise RuntimeError(f"{error}{bounding.bound_told()}") from None
    return interpreter


class Model:
    """A loaded model with random inputs set, and what its loading and its first inference took."""

    def __init__(
        self,
        runtime: str,
        path: str,
        threads: int,
        seed: int,
        signature: str | None = None,
        sizes: list[list[Any]] | None = None,
    ) -> None:
        before_kb = machine.anonymous_kb()
        start = machine.now_us()
        self.interpreter = _interpreter(runtime, path, threads, signature, sizes)
        self.load_us = machine.now_us() - start
        self.fill(seed)
        start = machine.now_us()
        self.interpreter.invoke()
        self.first_us = machine.now_us() - start
        after_kb = machine.anonymous_kb()
        # What it keeps: its tensors, and its weights as the runtime packs them.
        self.resident_kb = None if before_kb is None or after_kb is None else max(0, after_kb - before_kb)
        self.us = self.cold_us = self.first_us
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
        time_us = self.visit()[0]
        if time_us < min_visit_us:  # a small one was still warming up
            time_us = min(self.visit()[0], self.visit()[0])
        self.repeats = min(_MOST_REPEATS, max(1, math.ceil(min_visit_us / time_us)))

    def visit(self, warm: bool = True) -> tuple[float, bool]:
        """Microseconds an inference took, a mean over `repeats` of them, and whether the process lost its core.

        With `warm` one more inference goes before, for other models have taken the caches since the last visit. What it
        takes when they are full of other data is left in `cold_us`. A long inference hardly feels it: it is not done
        twice.
        """
        invoke, repeats = self.interpreter.invoke, range(self.repeats)
        interruptions = machine.lost_core()
        if warm and self.us < _LONG_US:
            machine.fill_caches()
            start = machine.now_us()
            invoke()
            self.cold_us = max(0.001, machine.now_us() - start)
        start = machine.now_us()
        for _ in repeats:
            invoke()
        self.us = us = max(0.001, (machine.now_us() - start) / self.repeats)
        if not warm or us >= _LONG_US:
            self.cold_us = us
        return us, machine.lost_core() > interruptions


def _single(report: Callable[..., None], plan: dict[str, Any]) -> dict[str, Any]:
    bind(plan["cores"])
    base_kb = machine.rss_kb("VmRSS")
    model = Model(plan["runtime"], plan["model"], plan["threads"], 0, plan["signature"], plan["sizes"])
    growth_kb = machine.rss_kb("VmHWM") - base_kb
    reference = None
    if plan["reference"] is not None:
        reference = Model(plan["runtime"], plan["reference"], plan["threads"], 0)
        reference.warm_up(_REFERENCE_VISIT_US)
    for _ in range(plan["warmup"]):
        model.visit()
    gc.collect()
    gc.disable()
    times, lost, references = [], [], []
    on_core_us = wall_us = 0.0
    late = 0
    every_us = plan["every_us"]
    told = due = machine.now_us()
    for number in range(plan["runs"]):
        if reference is not None and number % _REFERENCE_EVERY == 0:
            if every_us:
                reference.visit()  # after sleeping, a processor needs a moment
            references.append(reference.visit()[0])
            model.visit()
            due = machine.now_us() + every_us
        if every_us:
            late += machine.now_us() > due
            machine.sleep(max(0.0, (due - machine.now_us()) / 1e6))
            due = machine.now_us() + every_us
        # This thread's time, whatever the number of threads: it waits for the others without leaving its core.
        on_core_start, start = machine.on_core_us(), machine.now_us()
        us, was_lost = model.visit(warm=False)
        wall_us += machine.now_us() - start
        on_core_us += machine.on_core_us() - on_core_start
        times.append(us)
        lost.append(was_lost)
        if machine.now_us() - told > _PROGRESS_US:
            told = machine.now_us()
            report(run=number + 1, runs=plan["runs"])
    if reference is not None:
        references.append(reference.visit()[0])
    return {
        "first_us": model.first_us,
        "load_us": model.load_us,
        "times_us": times,
        "lost": lost,
        "away": max(0.0, 1 - on_core_us / wall_us),
        "late": late / plan["runs"],
        "reference_us": references,
        "peak_rss_growth_kb": growth_kb,
        "inputs": [_tensor(detail) for detail in model.interpreter.get_input_details()],
        "outputs": [_tensor(detail) for detail in model.interpreter.get_output_details()],
    }


def _infer(
    report: Callable[..., None], path: str, inputs: str, outputs: str, threads: int, runtime: str
) -> dict[str, Any]:
    import numpy

    rows = numpy.load(inputs, allow_pickle=False)
    interpreter = _interpreter(runtime, path, threads)
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    taken = [int(size) for size in entry["shape"][1:]]
    if list(rows.shape[1:]) != taken:
        raise ValueError(f"the model takes {taken}, the samples are {list(rows.shape[1:])}")
    answers = []
    start = told = machine.now_us()
    for number, row in enumerate(rows):
        interpreter.set_tensor(entry["index"], row[None].astype(entry["dtype"]))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(result["index"])[0])
        if machine.now_us() - told > _PROGRESS_US:
            told = machine.now_us()
            report(row=number + 1, rows=len(rows))
    seconds = (machine.now_us() - start) / 1e6
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


def bind(cores: list[int] | None) -> None:
    """Keep the child on these cores, where the system can."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


OPERATIONS = {"single": single, "infer": infer}
