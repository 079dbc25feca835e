"""Models alone, with a machine and a runtime whose times are scripted: what a visit is, and what `single` tells."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ai_edge_litert.interpreter
import numpy as np
import pytest

from edgenas.device.agent import running
from edgenas.device.agent.children import Died
from edgenas.device.agent.context import Context, OperationError
from edgenas.device.agent.running import Model, _infer, _single
from tests.device.scripted import COLD, Collector, Interpreter, Machine, runtime
from tests.opened import opened, with_signatures

Load = Callable[..., Model]


@pytest.fixture(autouse=True)
def collector(monkeypatch: pytest.MonkeyPatch) -> Collector:
    collector = Collector()
    monkeypatch.setattr(running, "gc", collector)
    return collector


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(running, "machine", machine)
    return machine


@pytest.fixture
def made() -> dict[str, Interpreter]:
    """The interpreters that were loaded, by model."""
    return {}


@pytest.fixture
def load(machine: Machine, monkeypatch: pytest.MonkeyPatch, made: dict[str, Interpreter]) -> Load:
    """A model whose inferences take so long, one after the other; its first one is over."""

    def load(*times: Any, repeats: int = 1) -> Model:
        monkeypatch.setitem(running._imported, "scripted", runtime(machine, made, m=[*times]))
        model = Model("scripted", "m", 1, 0)
        model.repeats = repeats
        machine.did.clear()
        return model

    return load


def test_loading_and_the_first_inference_are_timed_apart(load: Load, machine: Machine):
    machine.kb = iter([5000, 5300])
    model = load(500.0, 100.0)
    assert (model.load_us, model.first_us, model.us, model.cold_us) == (70, 500, 500, 500)
    assert model.resident_kb == 300
    for kb, kept in (((5000, 4000), 0), ((None, 5000), None), ((5000, None), None)):
        machine.kb = iter(kb)
        assert load(500.0).resident_kb == kept


def test_inputs_are_random_and_the_seed_s(load: Load, made: dict[str, Interpreter]):
    load(1.0)
    floats, signed, unsigned, indices = (made["m"].tensors[index] for index in range(4))
    assert floats.dtype == np.float32 and 0 <= floats.min() < 0.05 and 0.95 < floats.max() < 1
    assert (signed.dtype, signed.min() < -100, signed.max() > 100) == (np.int8, True, True)
    assert (unsigned.dtype, unsigned.min() < 20, unsigned.max() > 235) == (np.uint8, True, True)
    assert (indices.dtype, set(indices.ravel())) == (np.int32, {0, 1})
    model = load(1.0)
    assert (made["m"].tensors[0] == floats).all()
    model.fill(1)
    assert (made["m"].tensors[0] != floats).any()


def _outputs(interpreter: Any, images: np.ndarray) -> list[float]:
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(given["index"], images)
    interpreter.invoke()
    return [float(value) for value in interpreter.get_tensor(wanted["index"]).ravel()]


@pytest.mark.parametrize("asked", [{"signature": "large"}, {"sizes": [[0, [1, 16, 16, 1]]]}], ids=["graph", "sizes"])
def test_what_is_asked_for_of_a_model_is_what_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: dict[str, Any]
):
    """One signature of several, or an open model at some sizes: it computes what a model of these sizes does."""
    monkeypatch.setitem(running._imported, "real", ai_edge_litert.interpreter)
    contents = {"asked": with_signatures("small", "large") if "signature" in asked else opened(),
                "fixed": opened((1, 16, 16, 1))}  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = Model("real", str(tmp_path / "asked"), 1, 0, **asked).interpreter
    fixed = Model("real", str(tmp_path / "fixed"), 1, 0).interpreter
    images = np.random.default_rng(0).random((1, 16, 16, 1), np.float32)
    assert _outputs(found, images) == pytest.approx(_outputs(fixed, images), abs=1e-5)
    assert running._tensor(found.get_input_details()[0])["shape"] == [1, 16, 16, 1]


def test_sizes_that_a_file_fixes_are_not_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(running._imported, "real", ai_edge_litert.interpreter)
    (tmp_path / "m").write_bytes(opened())
    with pytest.raises(RuntimeError, match="only allows mutating unknown dimensions"):
        Model("real", str(tmp_path / "m"), 1, 0, sizes=[[0, [1, 16, 16, 3]]])


def test_a_visit_fills_the_caches_and_takes_a_mean_once_the_model_is_warm(load: Load, machine: Machine):
    model = load(500.0, 20.0, 10.0, 11.0, 12.0, repeats=3)
    assert model.visit() == (11.0, False)
    assert machine.did == ["fill", "m", "m", "m", "m"]
    assert model.cold_us == 20.0 * COLD, "what the warm-up took, with the caches full of other data"


def test_a_visit_that_is_not_to_warm_up_takes_every_inference(load: Load, machine: Machine):
    model = load(500.0, 20.0, 10.0, repeats=2)
    assert model.visit(warm=False) == (15.0, False)
    assert (machine.did, model.cold_us) == (["m", "m"], 15.0)


def test_a_long_inference_is_not_done_twice(load: Load, machine: Machine):
    model = load(20_000.0, 21_000.0, 19_999.0, 19_000.0)
    assert model.visit() == (21_000.0, False)
    assert (machine.did, model.cold_us) == (["m"], 21_000.0), "its first one was long"
    assert model.visit() == (19_999.0, False)
    machine.did.clear()
    assert model.visit() == (19_000.0, False)
    assert machine.did == ["fill", "m", "m"], "the last one was not"
    assert model.cold_us == 19_000.0 * COLD


@pytest.mark.parametrize(
    ("times", "lost"),
    [((1.0, (1.0, 50.0), 1.0, 1.0), True), ((1.0, 1.0, 1.0, (1.0, 50.0)), True), ((1.0, 1.0), False)],
    ids=["warming up", "last", "never"],
)
def test_a_visit_says_whether_it_lost_its_core(load: Load, times: tuple[Any, ...], lost: bool):
    model = load(*times, 1.0, repeats=2)
    assert model.visit()[1] is lost
    assert model.visit()[1] is False, "once"


def test_no_time_is_zero(load: Load):
    model = load(1.0, 0.0)
    assert model.visit()[0] == model.cold_us == 0.001


@pytest.mark.parametrize(
    ("us", "repeats"), [(10.0, 20), (10.1, 20), (9.9, 21), (200.0, 1), (500.0, 1), (1.01, 199), (0.5, 200)]
)
def test_small_models_are_run_often_enough_for_a_visit_of_200_us(load: Load, us: float, repeats: int):
    model = load(us)
    model.warm_up(200)
    assert model.repeats == repeats


def test_a_small_model_is_timed_again_once_it_is_warm(load: Load, machine: Machine):
    three = [1.0, *[100.0] * 3]  # a visit of three, and the one before it
    model = load(1.0, *three, 1.0, *[60.0] * 3, 1.0, *[40.0] * 3)
    model.warm_up(200)
    assert (model.repeats, len([did for did in machine.did if did == "m"])) == (5, 12), "the faster of two"
    model = load(1.0, 1.0, *[300.0] * 3, 1.0)
    model.warm_up(200)
    assert (model.repeats, machine.did.count("m")) == (1, 4), "a large one is not"


Single = Callable[..., dict[str, Any]]


@pytest.fixture
def single(machine: Machine, monkeypatch: pytest.MonkeyPatch, made: dict[str, Interpreter]) -> Single:
    """`single`, in this process, of a model whose inferences take `times` once it is loaded."""
    bound: list[Any] = []
    monkeypatch.setattr(running, "bind", bound.append)

    def single(times: list[Any], report: Callable[..., None] = lambda **_: None, **plan: Any) -> dict[str, Any]:
        known = runtime(machine, made, model=[900.0, *times], reference=[100.0])
        monkeypatch.setitem(running._imported, "scripted", known)
        plan = {
            "model": "model", "runs": 3, "warmup": 0, "threads": 1, "runtime": "scripted", "cores": [2],
            "reference": None, "every_us": 0, "signature": None, "sizes": None,
        } | plan  # fmt: skip
        answer = _single(report, plan)
        assert bound == [[2]]
        bound.clear()
        return answer

    return single


def test_single_tells_each_inference(single: Single, machine: Machine):
    machine.rss = {"VmRSS": 1000, "VmHWM": 1700}
    answer = single([5.0, 10.0, (20.0, 70.0), 30.0], warmup=0, runs=4)
    assert answer["times_us"] == [5.0, 10.0, 90.0, 30.0], "alone, one after the other, no cache filled"
    assert answer["lost"] == [False, False, True, False]
    assert answer["away"] == pytest.approx(70 / 135)
    assert (answer["first_us"], answer["load_us"], answer["late"], answer["reference_us"]) == (900, 70, 0, [])
    assert answer["peak_rss_growth_kb"] == 700
    assert machine.did == ["model"] * 5
    assert answer["inputs"][1] == {"shape": [1, 500], "dtype": "int8", "scale": 0.5, "zero_point": -3}
    assert answer["outputs"] == [{"shape": [1, 4], "dtype": "int8", "scale": 0.25, "zero_point": 7}]


def test_away_is_of_the_inferences_alone(single: Single):
    """What happens to the reference, and while it warms up, is no inference's."""
    answer = single([(10.0, 1000.0), (10.0, 1000.0), 50.0], warmup=1, runs=5)
    assert (answer["away"], answer["lost"]) == (0.0, [False] * 5)


def test_warming_up_goes_before(single: Single, machine: Machine):
    answer = single([30.0, 20.0, 30.0, 20.0, 10.0], warmup=2, runs=2)
    assert answer["times_us"] == [10.0, 10.0]
    assert machine.did == ["model", "fill", "model", "model", "fill", "model", "model", "model", "model"]


def test_no_garbage_is_collected_meanwhile(single: Single, machine: Machine, collector: Collector):
    collector.did = machine.did
    single([10.0], warmup=1, runs=2)
    assert machine.did == ["model", "fill", "model", "model", "collect", "disable", "model", "model"]


def test_the_reference_is_visited_after_every_twenty_inferences(single: Single, machine: Machine):
    answer = single([10.0], runs=41, reference="reference")
    assert answer["reference_us"] == [100.0] * 4, "before the first, after 20 and 40, and at the end"
    visit, warm = ["fill", *["reference"] * 11], ["fill", "model", "model"]
    group = [*visit, *warm, *["model"] * 20]
    end = [*visit, *warm, "model", *visit]
    assert machine.did[-len(group) * 2 - len(end) :] == [*group, *group, *end]


def test_a_duty_cycle_sleeps_until_each_inference_is_due(single: Single, machine: Machine):
    answer = single([300.0, 600.0, 300.0], runs=4, every_us=1000)
    assert (answer["times_us"], answer["late"]) == ([300.0, 600.0, 300.0, 300.0], 0.0)
    slept = [did[1] for did in machine.did if isinstance(did, tuple)]
    assert slept == [0.0, 0.0007, 0.0004, 0.0007], "the first is due at once"


def test_inferences_that_are_not_done_in_time_are_late(single: Single, machine: Machine):
    answer = single([1500.0, 300.0, 1500.0, 1500.0], runs=4, every_us=1000)
    assert answer["late"] == 0.5, "after the first and the third; nobody waits for the last"
    slept = [did[1] for did in machine.did if isinstance(did, tuple)]
    assert slept == [0.0, 0.0, 0.0007, 0.0], "a late one puts off those after it"


def test_with_a_duty_cycle_the_reference_is_woken_first(single: Single, machine: Machine):
    answer = single([10.0], runs=1, reference="reference", every_us=1000)
    visit = ["fill", *["reference"] * 11]
    assert machine.did[-len(visit) * 3 - 5 :] == [
        *visit, *visit, "fill", "model", "model", ("sleep", 0.001), "model", *visit,
    ]  # fmt: skip
    assert (answer["reference_us"], answer["late"]) == ([100.0] * 2, 0)


def test_progress_is_told_once_a_second(single: Single):
    told: list[dict[str, int]] = []
    single([400_000.0], lambda **line: told.append(line), runs=7)
    assert told == [{"run": 3, "runs": 7}, {"run": 6, "runs": 7}]


def test_infer_tells_rows_time_and_progress(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    class Doubles(Interpreter):
        def get_tensor(self, index: int) -> np.ndarray:
            assert index == 9
            return self.tensors[0][:, :4].astype(np.int8) * 2

    model = Doubles(machine, "m", [400_000.0])
    known = type("Runtime", (), {"Interpreter": lambda model_path, num_threads: model})
    monkeypatch.setitem(running._imported, "scripted", known)
    rows, told = np.arange(4 * 500).reshape(4, 500) % 50, []  # type: ignore[var-annotated]
    np.save(tmp_path / "in.npy", rows)
    paths = ("m", str(tmp_path / "in.npy"), str(tmp_path / "out.npy"), 1, "scripted")
    answer = _infer(lambda **line: told.append(line), *paths)
    assert answer == {"rows": 4, "seconds": 1.6}
    assert told == [{"row": 3, "rows": 4}]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), rows[:, :4] * 2)
    np.save(tmp_path / "in.npy", rows[:0])
    assert _infer(lambda **_: None, *paths)["rows"] == 0
    assert np.load(tmp_path / "out.npy").shape == (0, 4)


@pytest.mark.parametrize(
    ("death", "kind", "words"),
    [
        (Died("killed by SIGKILL", True), "out_of_memory", "the model's process was killed by SIGKILL"),
        (Died("killed by SIGSEGV", False), "model_crashed", "the model's process was killed by SIGSEGV"),
        (RuntimeError("ValueError: no model"), "bad_model", "ValueError: no model"),
    ],
    ids=["no memory", "crash", "no model"],
)
@pytest.mark.parametrize("operation", ["single", "infer"])
def test_what_happened_to_a_model_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, operation: str, death: Exception, kind: str, words: str
):
    def die(*_: Any, **__: Any) -> None:
        raise death

    monkeypatch.setattr(running, "in_child", die)
    monkeypatch.setitem(running._imported, "scripted", None)
    params: dict[str, Any] = {"single": {"runs": 1}, "infer": {"inputs": "i", "outputs": "o"}}[operation]
    context = Context("/", None, lambda **_: None)  # type: ignore[arg-type]
    with pytest.raises(OperationError, match=f"^{words}$") as caught:
        running.OPERATIONS[operation](context, model="m", runtime="scripted", **params)
    assert caught.value.kind == kind


def test_a_runtime_that_kills_its_process_is_not_imported(monkeypatch: pytest.MonkeyPatch):
    context = Context("/", None, lambda **_: None)  # type: ignore[arg-type]
    with pytest.raises(OperationError, match="does not know the runtime 'other'"):
        running.import_runtime(context, "other")

    def die(*_: Any) -> None:
        raise Died("killed by SIGILL", False)

    monkeypatch.setattr(running, "in_child", die)
    monkeypatch.setattr(running, "_imported", {})
    with pytest.raises(OperationError, match="tflite-runtime does not import: killed by SIGILL") as caught:
        running.import_runtime(context, "tflite-runtime")
    assert (caught.value.kind, running._imported) == ("no_runtime", {})
