"""What is said of one layer: from the table, and from a device that may be gone or may talk nonsense."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

import edgenas.files as files
import edgenas.latency.profiling.explaining as explaining
import edgenas.latency.profiling.kernels as kernels
from edgenas.architecture import Layer
from edgenas.device import Device
from edgenas.errors import CheckFailedError, DeviceError, InputError
from edgenas.latency.profiling.explaining import describe_layer, explain_layer, find_layer
from edgenas.latency.table import Entry, LatencyTable
from edgenas.space import MobileSpace

LAYER = Layer.parse("mbconv_k5_e3_s1_c16_relu6@28x28x16")
BOARD = Device("board", "ssh://nobody@127.0.0.1:1")
KERNELS = [
    {"name": "Fully Connected (NC, QS8, QC8W) GEMM", "kind": "delegate kernel", "us": 5.25, "count": 2},
    {"name": "HARD_SWISH", "kind": "operator", "us": 40.0, "count": 1},
]
ANSWER = {"runtime_version": "2.3.0", "runs": 100, "kernels": KERNELS, "total_us": 45.25}


@pytest.fixture(scope="module")
def table(simulate: Callable[[MobileSpace], LatencyTable]) -> LatencyTable:
    made = simulate(MobileSpace("tiny", (28, 28, 1), 10))
    return dataclasses.replace(made, entries=made.entries | {LAYER: Entry(20.0, 0.01, 90.0)})


class FakeBoard:
    """Connection and agent at once; remembers what it was asked."""

    folder = "/home/board/.edgenas"

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.done: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.done.append("closed")

    def runtime_version(self, package: str) -> str:
        return "2.3.0"

    def lock(self) -> None:
        self.done.append("locked")

    def put(self, local: Path, remote: str) -> None:
        self.done.append(("put", remote))

    def run(self, argv: list[str]) -> None:
        self.done.append(argv)

    def call(self, op: str, timeout_s: float, **params: Any) -> Any:
        self.done.append((op, params))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class FakePool:
    """Gives a path and converts nothing."""

    def __init__(self, folder: Path, precision: str) -> None:
        assert precision == "int8"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def path(self, layer: Layer) -> Path:
        assert layer == LAYER
        return Path(__file__)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], FakeBoard]:
    """A board that gives a certain answer."""

    def make(answer: Any) -> FakeBoard:
        made = FakeBoard(answer)
        monkeypatch.setattr(kernels, "connect", lambda device: made)
        monkeypatch.setattr(kernels, "open_agent", lambda connection: connection)
        monkeypatch.setattr(explaining, "ConversionPool", FakePool)
        return made

    return make


def test_what_the_table_holds(table: LatencyTable) -> None:
    found = describe_layer(table, LAYER)
    assert found["layer"] == str(LAYER)
    assert (found["us"], found["half_width"], found["cold_us"]) == (20.0, 0.01, 90.0)
    assert found["cost_us"] == pytest.approx(20 * (1.1 - 0.05))  # the calibration's sum and kernel5
    assert found["macs"] == LAYER.macs


def test_the_kernels_that_run(table: LatencyTable, board: Callable[[Any], FakeBoard]) -> None:
    made = board(ANSWER)
    found = explain_layer(BOARD, table, LAYER)
    assert found["kernels"] == KERNELS
    assert found["total_us"] == 45.25
    assert found["us"] == 20.0
    (note,) = found["notes"]
    assert '"Fully Connected"' in note
    assert "rounded down" in note
    asked = next(params for op, params in (each for each in made.done if isinstance(each, tuple)) if op == "kernels")
    assert asked == {
        "model": f"/home/board/.edgenas/explain/{files.sha256(Path(__file__))[:16]}.tflite",
        "runs": 100,
        "threads": 1,
        "runtime": "ai-edge-litert",
        "cores": [0, 1],
    }
    assert made.done[0] == "locked"
    assert ["rm", "-rf", "/home/board/.edgenas/explain"] in made.done


def test_another_version_is_noted(table: LatencyTable, board: Callable[[Any], FakeBoard]) -> None:
    board(ANSWER | {"runtime_version": "2.2.0"})
    assert (
        "has ai-edge-litert 2.2.0 now; the table was measured with 2.3.0"
        in explain_layer(BOARD, table, LAYER)["notes"][1]
    )


@pytest.mark.parametrize(
    "answer",
    [
        DeviceError("board: LiteRT's profiler does not start there."),
        CheckFailedError("board: the model does not run."),
        "nonsense",
        {"kernels": KERNELS},
        ANSWER | {"kernels": [{"name": "x"}]},
        ANSWER | {"total_us": float("nan")},
    ],
)
def test_a_device_that_cannot_tell_is_one_note(
    table: LatencyTable, board: Callable[[Any], FakeBoard], answer: Any
) -> None:
    made = board(answer)
    found = explain_layer(BOARD, table, LAYER)
    assert "kernels" not in found
    assert found["us"] == 20.0
    (note,) = found["notes"]
    assert note.startswith("The kernels that run in it are not known: ")
    assert "board" in note
    assert ["rm", "-rf", "/home/board/.edgenas/explain"] in made.done


def test_a_runtime_without_the_profiler_is_not_even_asked(
    table: LatencyTable, board: Callable[[Any], FakeBoard]
) -> None:
    made = board(ANSWER)
    old = dataclasses.replace(table, identity=dataclasses.replace(table.identity, runtime="tflite-runtime"))
    (note,) = explain_layer(BOARD, old, LAYER)["notes"]
    assert "only ai-edge-litert and benchmark-model can be asked, and this is tflite-runtime" in note
    assert made.done == []


def test_a_layer_that_the_table_lacks_is_answered_by_near_ones(table: LatencyTable) -> None:
    assert find_layer(table, str(LAYER)) == LAYER
    with pytest.raises(
        InputError, match=r"no layer mbconv_k5_e3_s1_c15_relu6@28x28x16.*mbconv_k5_e3_s1_c16_relu6@28x28x16"
    ):
        find_layer(table, "mbconv_k5_e3_s1_c15_relu6@28x28x16")
    with pytest.raises(InputError, match="is no layer"):
        find_layer(table, "mbconv_k5")
