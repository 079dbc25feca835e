"""Which kernels run in a model, and how long each takes: told by the profiler inside LiteRT's library.

The wheel's Python has no way to it, so the library's C functions are called, and the records of its events read as the
compiler laid them out. Both were checked in the wheels of `_CHECKED` (run on x86-64; aarch64's exports the same); any
other is refused, since a wrong guess there gives wrong numbers or a crash. Nothing but this explanation needs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from . import bounding, machine
from .children import Died, in_child
from .context import Context, OperationError
from .inspection import memory_kb
from .running import bind, refuse_threads

_PACKAGE, _MODULE, _LIBRARY = "ai-edge-litert", "ai_edge_litert", "libLiteRt.so"
_CHECKED = ("2.1.6", "2.2.0", "2.3.0")
_WARM = 3
_MOST_EVENTS = 100_000  # of one run; a network of the largest space has some hundreds
_LONGEST_NAME = 200  # a custom operator's name is whatever the model says


def kernels(
    context: Context,
    model: str,
    runs: int,
    threads: int = 1,
    runtime: str = _PACKAGE,
    cores: list[int] | None = None,
) -> dict[str, Any]:
    """What runs inside a model, in the order of its first call, each with its mean time and calls a run.

    `kind` is "delegate kernel" (of XNNPACK) or "operator" (TFLite's own code, where XNNPACK did not take it). XNNPACK
    reports whole microseconds, rounded down. `total_us` is their sum; the profiler's own cost lies between them.
    """
    version, library = _find(runtime)
    refuse_threads(threads)
    if runs < 1:
        raise OperationError("failed", f"at least 1 run is needed, not {runs}")
    begun: list[int] = []

    def progress(**values: Any) -> None:
        begun.append(1)
        context.progress(**values)

    try:
        most_kb = bounding.share_kb(memory_kb()[0])
        answer = in_child(
            context.stdin, _profile, library, model, runs, threads, cores, progress=progress, most_kb=most_kb
        )
    except (Died, RuntimeError) as error:
        reason = f"its process was {error.reason}" if isinstance(error, Died) else str(error)
        if not begun:
            raise OperationError("no_profiler", f"LiteRT's profiler does not start there: {reason}") from None
        kind = "bad_model"
        if isinstance(error, Died):
            kind = "out_of_memory" if error.out_of_memory else "model_crashed"
        raise OperationError(kind, f"the model does not run under LiteRT's profiler: {reason}") from None
    return {"runtime_version": version, "runs": runs, **answer}


def _find(runtime: str) -> tuple[str, str]:
    """The version of the wheel and the path of its library; refuses what was not checked."""
    able = f"only {_PACKAGE} {' or '.join(_CHECKED)} can be asked for the kernels inside a model"
    if runtime != _PACKAGE:
        raise OperationError("no_profiler", f"{able}; the runtime is {runtime}")
    found = importlib.util.find_spec(_MODULE)
    try:
        version = metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        version = ""
    if found is None or not found.origin or not version:
        raise OperationError("no_profiler", f"{able}; it is not installed there")
    if version not in _CHECKED:
        raise OperationError("no_profiler", f"{able}; installed there is {version}")
    return version, str(Path(found.origin).parent / _LIBRARY)


# LiteRT's C functions: what each takes; an object that it makes goes to the last one. They return a status, 0 for good.
_HANDLE, _INT, _SIZE, _TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "LiteRtCreateEnvironment": (_INT, _HANDLE, _HANDLE),
    "LiteRtCreateModelFromFile": (_HANDLE, _TEXT, _HANDLE),
    "LiteRtCreateOptions": (_HANDLE,),
    "LiteRtSetOptionsHardwareAccelerators": (_HANDLE, _INT),
    "LiteRtCreateOpaqueOptions": (_TEXT, _HANDLE, _HANDLE, _HANDLE),
    "LiteRtAddOpaqueOptions": (_HANDLE, _HANDLE),
    "LiteRtCreateCompiledModel": (_HANDLE, _HANDLE, _HANDLE, _HANDLE),
    "LiteRtGetModelSignature": (_HANDLE, _SIZE, _HANDLE),
    "LiteRtGetNumSignatureInputs": (_HANDLE, _HANDLE),
    "LiteRtGetNumSignatureOutputs": (_HANDLE, _HANDLE),
    "LiteRtGetSignatureInputTensorByIndex": (_HANDLE, _SIZE, _HANDLE),
    "LiteRtGetSignatureOutputTensorByIndex": (_HANDLE, _SIZE, _HANDLE),
    "LiteRtGetRankedTensorType": (_HANDLE, _HANDLE),
    "LiteRtGetCompiledModelInputBufferRequirements": (_HANDLE, _SIZE, _SIZE, _HANDLE),
    "LiteRtGetCompiledModelOutputBufferRequirements": (_HANDLE, _SIZE, _SIZE, _HANDLE),
    "LiteRtCreateManagedTensorBufferFromRequirements": (_HANDLE, _HANDLE, _HANDLE, _HANDLE),
    "LiteRtGetTensorBufferPackedSize": (_HANDLE, _HANDLE),
    "LiteRtLockTensorBuffer": (_HANDLE, _HANDLE, _INT),
    "LiteRtUnlockTensorBuffer": (_HANDLE,),
    "LiteRtRunCompiledModel": (_HANDLE, _SIZE, _SIZE, _HANDLE, _SIZE, _HANDLE),
    "LiteRtCompiledModelGetProfiler": (_HANDLE, _HANDLE),
    "LiteRtStartProfiler": (_HANDLE,),
    "LiteRtStopProfiler": (_HANDLE,),
    "LiteRtGetNumProfilerEvents": (_HANDLE, _HANDLE),
    "LiteRtGetProfilerEvents": (_HANDLE, _INT, _HANDLE),
}
_FREES = ("Environment", "Model", "Options", "OpaqueOptions", "CompiledModel", "TensorBuffer")
_CPU, _WRITE = 1, 1  # kLiteRtHwAcceleratorCpu, kLiteRtTensorBufferLockModeWrite
_FLOAT32, _UINT8, _INT8 = 1, 3, 9  # kLiteRtElementType...
_KINDS = {2: "operator", 8: "delegate kernel"}  # types of events; the others are no kernels


class _Option(ctypes.Structure):
    """An option of the environment that holds an integer: LiteRtEnvOption, whose two enumerations are padded."""

    _fields_ = [
        ("tag", ctypes.c_int64),
        ("type", ctypes.c_int64),
        ("value", ctypes.c_int64),
    ]


# What the library calls to free a text that stays ours.
_NOT_YOURS = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda text: None)
# Without it the environment loads the GPU libraries that it finds; the wheel's dies with SIGILL on Cortex-A53 and A72.
_CPU_ONLY = _Option(24, 2, _CPU)  # kLiteRtEnvOptionTagAutoRegisterAccelerators, kLiteRtAnyTypeInt


class _Event(ctypes.Structure):
    """One event of the profiler: ProfiledEventData, as C++ sees it."""

    _fields_ = [
        ("tag", ctypes.c_char_p),  # the profiler's own, until it starts again
        ("type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory", ctypes.c_uint64 * 6),
        ("metadata", ctypes.c_uint64 * 2),
        ("source", ctypes.c_int),
    ]


class _Library:
    """LiteRT's functions; a status other than 0 raises, and what was made is freed at the end of `with`, last first."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._made = contextlib.ExitStack()
        self._texts: list[Any] = []
        for name, takes in _FUNCTIONS.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = takes, _INT
        for what in _FREES:
            function = getattr(self._library, "LiteRtDestroy" + what)
            function.argtypes, function.restype = (_HANDLE,), None

    def __enter__(self) -> _Library:
        return self

    def __exit__(self, *_: object) -> None:
        self._made.close()

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name} failed with status {status}")

    def get(self, name: str, *arguments: Any, kind: Any = _HANDLE) -> Any:
        """What a function hands out through its last parameter; it stays the library's."""
        value = kind()
        self.call(name, *arguments, ctypes.byref(value))
        if kind is _HANDLE and not value:
            raise RuntimeError(f"{name} gave nothing")
        return value

    def make(self, what: str, name: str, *arguments: Any) -> Any:
        """An object that is ours to free."""
        handle = self.get(name, *arguments)
        self._made.callback(getattr(self._library, "LiteRtDestroy" + what), handle)
        return handle

    def add_options(self, options: Any, identifier: bytes, toml: bytes) -> None:
        """Settings of one part of the runtime, which reads them as TOML."""
        text = ctypes.create_string_buffer(toml)
        self._texts.append(text)
        added = self.get("LiteRtCreateOpaqueOptions", identifier, text, _NOT_YOURS)
        try:
            self.call("LiteRtAddOpaqueOptions", options, added)  # from here on they belong to `options`
        except RuntimeError:
            self._library.LiteRtDestroyOpaqueOptions(added)
            raise


def _profile(
    report: Callable[..., None], path: str, model: str, runs: int, threads: int, cores: list[int] | None
) -> dict[str, Any]:
    """In the child: run the model, and read after each run what the profiler saw."""
    bind(cores)
    with _Library(path) as library:
        environment = library.make("Environment", "LiteRtCreateEnvironment", 1, ctypes.byref(_CPU_ONLY))
        report(run=0, runs=runs)  # from here on, what fails is the model
        run, profiler = _load(library, environment, model, threads)
        for _ in range(_WARM):
            run()
        totals: dict[tuple[str, str], list[int]] = {}  # microseconds and calls by (name, kind), in the order of calls
        told = machine.monotonic_s()
        for number in range(runs):
            library.call("LiteRtStartProfiler", profiler)  # forgets what it saw before
            run()
            library.call("LiteRtStopProfiler", profiler)
            for kernel, us in _calls(library, profiler):
                total = totals.setdefault(kernel, [0, 0])
                total[0] += us
                total[1] += 1
            if machine.monotonic_s() - told > 1:
                told = machine.monotonic_s()
                report(run=number + 1, runs=runs)
    return _means(totals, runs)


def _load(library: _Library, environment: Any, path: str, threads: int) -> tuple[Callable[[], None], Any]:
    """The model ready to run on random inputs, with its profiler."""
    model = library.make("Model", "LiteRtCreateModelFromFile", environment, os.fsencode(path))
    options = library.make("Options", "LiteRtCreateOptions")
    library.call("LiteRtSetOptionsHardwareAccelerators", options, _CPU)
    library.add_options(options, b"runtime_options_string", b"enable_profiling = true\n")
    library.add_options(options, b"xnnpack", f"num_threads = {int(threads)}\n".encode())
    compiled = library.make("CompiledModel", "LiteRtCreateCompiledModel", environment, model, options)
    signature = library.get("LiteRtGetModelSignature", model, 0)
    inputs = _buffers(library, environment, compiled, signature, "Input")
    outputs = _buffers(library, environment, compiled, signature, "Output")

    def run() -> None:
        library.call("LiteRtRunCompiledModel", compiled, 0, len(inputs), inputs, len(outputs), outputs)

    return run, library.get("LiteRtCompiledModelGetProfiler", compiled)


def _buffers(library: _Library, environment: Any, compiled: Any, signature: Any, way: str) -> Any:
    """A buffer for each input or output, as the array that a run takes; inputs are filled."""
    import numpy

    rng = numpy.random.default_rng(0)
    buffers = []
    for index in range(library.get(f"LiteRtGetNumSignature{way}s", signature, kind=_SIZE).value):
        tensor = library.get(f"LiteRtGetSignature{way}TensorByIndex", signature, index)
        # 18 words, of which only the first, the type of the elements, is read here.
        shape = library.get("LiteRtGetRankedTensorType", tensor, kind=ctypes.c_int32 * 32)
        needs = library.get(f"LiteRtGetCompiledModel{way}BufferRequirements", compiled, 0, index)
        made = "LiteRtCreateManagedTensorBufferFromRequirements"
        buffer = library.make("TensorBuffer", made, environment, ctypes.byref(shape), needs)
        buffers.append(buffer)
        if way == "Input":
            _fill(library, buffer, shape[0], rng)
    return (_HANDLE * len(buffers))(*buffers)


def _fill(library: _Library, buffer: Any, element: int, rng: Any) -> None:
    """Random values, as a model that is measured gets them."""
    size_bytes = library.get("LiteRtGetTensorBufferPackedSize", buffer, kind=_SIZE).value
    data = bytes(size_bytes)
    if element == _FLOAT32:
        data = rng.random(size_bytes // 4, "float32").tobytes()
    elif element in (_UINT8, _INT8):
        data = rng.bytes(size_bytes)
    address = _HANDLE()
    library.call("LiteRtLockTensorBuffer", buffer, ctypes.byref(address), _WRITE)
    ctypes.memmove(address, data, len(data))
    library.call("LiteRtUnlockTensorBuffer", buffer)


def _calls(library: _Library, profiler: Any) -> list[tuple[tuple[str, str], int]]:
    """(name, kind) and microseconds of each kernel that the last run called."""
    count = library.get("LiteRtGetNumProfilerEvents", profiler, kind=_INT).value
    if not 0 < count <= _MOST_EVENTS:
        raise RuntimeError(f"the profiler saw {count} events in a run, expected 1 to {_MOST_EVENTS}")
    events = (_Event * count)()
    library.call("LiteRtGetProfilerEvents", profiler, count, events)
    return [
        (((event.tag or b"").decode(errors="replace")[:_LONGEST_NAME], _KINDS[event.type]), event.elapsed_us)
        for event in events
        if event.type in _KINDS
    ]


def _means(totals: dict[tuple[str, str], list[int]], runs: int) -> dict[str, Any]:
    if any(calls % runs for _, calls in totals.values()):
        raise RuntimeError("the profiler lost events: not every run had the same ones")
    return {
        "kernels": [
            {"name": name, "kind": kind, "us": us / runs, "count": calls // runs}
            for (name, kind), (us, calls) in totals.items()
        ],
        "total_us": sum(us for us, _ in totals.values()) / runs,
    }


OPERATIONS = {"kernels": kernels}
