"""The kernels inside a model, as LiteRT's profiler names and times them."""

import importlib.metadata
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import ai_edge_litert
import ai_edge_litert.interpreter
import psutil
import pytest

from edgenas.device import Agent, Connection, open_agent
from edgenas.device.agent.kernels import _CHECKED, _calls, _means
from edgenas.errors import CheckFailedError, DeviceError
from edgenas.model import Precision
from tests.device import made

# Names of XNNPACK's kernels begin with one of these; TFLite's own operators are capitals.
XNNPACK = ("Convolution (NHWC, ", "Fully Connected (NC, ", "Add (ND)", "Multiply (ND)", "HardSwish (NC)")

needs_profiler = pytest.mark.skipif(
    importlib.metadata.version("ai-edge-litert") not in _CHECKED, reason="the installed ai-edge-litert was not checked"
)


def by_name(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {kernel["name"]: kernel for kernel in answer["kernels"]}


def test_what_is_made_is_made_again():
    """The files of tests/device/layers are what `python -m tests.device.made` makes of them today."""
    again, kept = made.make("k3_hardswish", "int8"), made.path_of("k3_hardswish", "int8").read_bytes()
    assert described(again) == described(kept)
    assert {path.name for path in made.FOLDER.iterdir()} == {made.path_of(*name).name for name in made.NAMES}


def described(content: bytes) -> list[Any]:
    """A model's operators and tensors; its weights are drawn anew each time."""
    interpreter = ai_edge_litert.interpreter.Interpreter(model_content=content)
    tensors = [(it["shape"].tolist(), it["dtype"]) for it in interpreter.get_tensor_details()]
    return [[it["op_name"] for it in interpreter._get_ops_details()], tensors]


@needs_profiler
@pytest.mark.parametrize("precision", made.PRECISIONS)
def test_the_kernels_of_a_layer_are_told_by_name(local: Connection, precision: Precision):
    """How long each takes is benchmarks/real/test_kernels.py."""
    with open_agent(local) as agent:
        for name in ("k7_relu6", "k3_relu6"):
            answer = agent.call("kernels", model=str(made.path_of(name, precision)), runs=10)
            assert answer["runs"] == 10
            assert answer["runtime_version"] in _CHECKED
            found = by_name(answer)
            assert len(found) == len(answer["kernels"]), "each name once"
            assert all(kernel["kind"] == "delegate kernel" for kernel in found.values()), (
                "XNNPACK takes the whole block"
            )
            assert all(name.startswith(XNNPACK) for name in found)
            # Two 1x1 convolutions, which XNNPACK runs as matrix products, a depthwise one and the skip connection.
            assert sum(kernel["count"] for kernel in found.values()) == 4
            assert sum("GEMM" in name and "IGEMM" not in name for name in found) == 1
            assert answer["total_us"] == pytest.approx(sum(kernel["us"] for kernel in found.values()))


@needs_profiler
def test_it_shows_why_a_block_is_slow(local: Connection):
    """What a table cannot say: a 7x7 depthwise left the fast kernels, int8 hard-swish left XNNPACK."""
    with open_agent(local) as agent:
        small, large, float_swish, swish = (
            by_name(agent.call("kernels", model=str(made.path_of(name, precision)), runs=1))
            for name, precision in (
                ("k3_relu6", "int8"), ("k7_relu6", "int8"), ("k3_hardswish", "float32"), ("k3_hardswish", "int8"),
            )
        )  # fmt: skip
    assert "Convolution (NHWC, QC8) DWConv" in small
    assert "Convolution (NHWC, QC8) DWConv" not in large
    assert "Convolution (NHWC, QC8) IGEMM" in large
    assert (swish["HARD_SWISH"]["kind"], swish["HARD_SWISH"]["count"]) == ("operator", 2)
    assert all(kernel["kind"] == "delegate kernel" for kernel in float_swish.values())


class Profiler:
    """A library whose profiler saw these events of one run: (name, type, microseconds)."""

    def __init__(self, *events: tuple[bytes | None, int, int]) -> None:
        self.events = events

    def get(self, name: str, *arguments: Any, kind: Any) -> Any:
        return kind(len(self.events))

    def call(self, name: str, profiler: Any, count: int, events: Any) -> None:
        for event, (name_, kind, us) in zip(events, self.events, strict=True):
            event.tag, event.type, event.elapsed_us = name_, kind, us


def test_events_of_kernels_are_told_from_others():
    seen = Profiler((b"conv", 8, 7), (b"Invoke", 1, 99), (b"x" * 300, 2, 3), (None, 8, 1), (b"delegate", 4, 9))
    assert _calls(seen, None) == [  # type: ignore[arg-type]
        (("conv", "delegate kernel"), 7), (("x" * 200, "operator"), 3), (("", "delegate kernel"), 1),
    ]  # fmt: skip
    with pytest.raises(RuntimeError, match="saw 0 events in a run"):
        _calls(Profiler(), None)  # type: ignore[arg-type]


def test_kernels_are_means_of_runs():
    totals = {("conv", "delegate kernel"): [60, 4], ("swish", "operator"): [30, 2]}
    assert _means(totals, 2) == {
        "kernels": [
            {"name": "conv", "kind": "delegate kernel", "us": 30.0, "count": 2},
            {"name": "swish", "kind": "operator", "us": 15.0, "count": 1},
        ],
        "total_us": 45.0,
    }
    with pytest.raises(RuntimeError, match="lost events"):
        _means(totals, 4)


@needs_profiler
def test_what_is_no_model_is_one_error_and_the_agent_goes_on(local: Connection, tmp_path: Path):
    good = str(made.path_of("k3_relu6", "int8"))
    (tmp_path / "bad.tflite").write_bytes(b"no model" * 100)
    (tmp_path / "half.tflite").write_bytes(Path(good).read_bytes()[:2000])
    with open_agent(local) as agent:
        for name in ("bad", "half", "none"):
            # LiteRT reads past the end of a model that was cut off: it may say so, or die of it.
            how = r"(.*LiteRtCreate\w*Model\w* failed with status|its process was killed by SIGSEGV)"
            with pytest.raises(CheckFailedError, match=f"under LiteRT's profiler: {how}"):
                agent.call("kernels", model=str(tmp_path / f"{name}.tflite"), runs=3)
        with pytest.raises(DeviceError, match="at least 1 run is needed, not 0"):
            agent.call("kernels", model=good, runs=0)
        assert agent.call("kernels", model=good, runs=1, threads=2)["kernels"]


@needs_profiler
def test_threads_no_gpu_and_a_model_that_kills_its_process(local: Connection, monkeypatch: pytest.MonkeyPatch):
    good = str(made.path_of("k3_relu6", "int8"))
    cores = os.cpu_count() or 1
    seen: dict[str, Any] = {}

    def look_and_kill(line: dict[str, Any]) -> None:
        if line["run"] > 0 and not seen:
            child = psutil.Process(agent.info.pid).children()[0]
            seen["threads"] = child.num_threads()
            seen["libraries"] = Path(f"/proc/{child.pid}/maps").read_text()
            child.send_signal(signal.SIGILL)

    # Where the wheel's GPU library could be found, it must still not be loaded; and NumPy keeps no threads of its own.
    monkeypatch.setenv("LD_LIBRARY_PATH", str(Path(ai_edge_litert.__file__).parent))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    with open_agent(local) as agent:
        assert agent.info.pid
        with pytest.raises(CheckFailedError, match=r"does not run under LiteRT's profiler: its process was .*SIGILL"):
            agent.call("kernels", model=good, runs=10**9, threads=cores, on_progress=look_and_kill)
        assert agent.call("status")["memory_available_kb"] > 0
    assert seen["threads"] == cores
    assert "libLiteRt.so" in seen["libraries"]
    assert "Gpu" not in seen["libraries"]


def test_another_runtime_is_refused(local: Connection):
    with open_agent(local) as agent, pytest.raises(DeviceError, match="the runtime is tflite-runtime"):
        agent.call("kernels", model="x", runs=1, runtime="tflite-runtime")


def _with_wheel(monkeypatch: pytest.MonkeyPatch, folder: Path, version: str) -> Path:
    """The folder of a package that agents find before the real one: what is installed is then of this version."""
    package = folder / "ai_edge_litert"
    package.mkdir()
    (package / "__init__.py").touch()
    about = folder / f"ai_edge_litert-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: ai-edge-litert\nVersion: {version}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(folder), os.environ["PYTHONPATH"])))
    return package


def _refusal(agent: Agent) -> str:
    with pytest.raises(DeviceError) as caught:
        agent.call("kernels", model="x", runs=1)
    assert not isinstance(caught.value, CheckFailedError), "the model is not to blame"
    return str(caught.value)


def test_a_version_that_was_not_checked_is_refused(local: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _with_wheel(monkeypatch, tmp_path, "2.99.0")
    with open_agent(local) as agent:
        message = _refusal(agent)
    assert f"only ai-edge-litert {_CHECKED[0]}" in message
    assert "installed there is 2.99.0" in message


def test_a_library_that_does_not_start_is_one_error(local: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = _with_wheel(monkeypatch, tmp_path, _CHECKED[0])
    with open_agent(local) as agent:
        assert "does not start there: OSError: " in _refusal(agent), "no library"
        (package / "libLiteRt.so").write_bytes(b"no library")
        assert "does not start there: OSError: " in _refusal(agent), "not a library"


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("__attribute__((constructor)) void die(void) { raise(SIGILL); }", "its process was killed by SIGILL"),
        ("int other;", "does not start there: AttributeError: .*LiteRtCreateEnvironment"),
    ],
    ids=["dies", "other functions"],
)
def test_a_library_for_another_processor_is_one_error(
    local: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
):
    """As on a Cortex-A53, where what LiteRT loads kills the process."""
    package = _with_wheel(monkeypatch, tmp_path, _CHECKED[0])
    (tmp_path / "fake.c").write_text(f"#include <signal.h>\n{code}\n")
    argv = ["cc", "-shared", "-fPIC", "-o", str(package / "libLiteRt.so"), str(tmp_path / "fake.c")]
    subprocess.run(argv, check=True, capture_output=True)
    with open_agent(local) as agent:
        with pytest.raises(DeviceError, match=message):
            agent.call("kernels", model="x", runs=1)
        assert agent.call("status")["memory_available_kb"] > 0
