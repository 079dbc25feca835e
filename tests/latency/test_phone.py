"""Phones measured through benchmark_model: a stand-in prints what the real one does, of a virtual machine."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgenas.errors import CheckFailedError, DeviceError, InputError, TooSlowError, UnreachableError
from edgenas.latency.profiling import phone as phones
from edgenas.latency.profiling.benchmark_output import Benchmark, Timing
from edgenas.latency.profiling.explaining import explain_layer
from edgenas.latency.profiling.kernels import kernels_in
from edgenas.latency.profiling.measuring import measure_file
from edgenas.latency.profiling.phone import PhoneBench, Visit, _Batch
from edgenas.latency.profiling.planning import Plan
from edgenas.latency.profiling.profiler import profile, table_name
from edgenas.latency.steadiness import Steadiness
from edgenas.latency.table import LatencyTable
from edgenas.latency.table.finding import mismatch
from tests.adb.lab import LabPhone, quicken
from tests.latency.made import PLAN, SPACE, MadePool
from tests.opened import opened, with_signatures

Make = Callable[..., LabPhone]
# Four networks of one kernel, and what they are made of: each measurement is a process.
_CHOSEN = PLAN.networks[:1] + PLAN.networks[4:7]
FEW = Plan(
    tuple(dict.fromkeys(layer for network in _CHOSEN for layer in network.layers())),
    _CHOSEN[:2], _CHOSEN[2:3], _CHOSEN[3:], PLAN.reference,
)  # fmt: skip


@pytest.fixture
def model(project: Path) -> Path:
    return MadePool(Path(".edgenas/models"), "int8").path(PLAN.reference)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two passes: on a virtual machine the third finds the same."""
    quicken(monkeypatch)


# What counts


def timing(us: float, disturbed: bool = False) -> Visit:
    found = Timing(50, us, us / 2, 10 * us, us, us if disturbed else us / 10, None)
    return Visit(Benchmark(1.0, us, found, None, None), None)


def batch(visits: dict[str, list[Visit]]) -> _Batch:
    """A batch over m0, m1, ... whose visits come from these lists; the reference's too."""
    iterators = {name: iter(found) for name, found in visits.items()}
    models = sorted(name for name in visits if name != "reference")
    return _Batch(lambda name: next(iterators[name]), models, "reference")


def test_ratios_are_to_the_neighbouring_references():
    one = batch(
        {"m0": [timing(10), timing(12), timing(14)], "reference": [timing(us) for us in (100, 108, 110, 112, 100, 104)]}
    )
    for _ in range(3):
        assert one.visit_all(one.unknown(), busy=False)
    found = one.result()
    ratio = found.ratios[0]
    assert ratio is not None
    assert ratio.value == pytest.approx(np.mean([10 / 104, 12 / 111, 14 / 102]))
    assert (ratio.cold, ratio.resident_kb) == (None, None)
    assert found.reference_us == pytest.approx(106)
    assert (found.visits, found.drifted, found.interrupted) == (3, 0, 0)
    assert found.steadiness == Steadiness(False, 0, 0, "")


def test_a_reference_that_moved_spoils_the_visits_beside_it_alone():
    visits = {f"m{i}": [timing(10)] for i in range(8)}
    one = batch(visits | {"reference": [timing(100), timing(111), timing(111)]})
    assert not one.visit_all(range(8), busy=False), "only half of the visits were good"
    assert one.drifted == 4
    assert sum(len(ratios) for ratios in one.ratios) == 4
    assert {ratio for ratios in one.ratios for ratio in ratios} == {10 / 111}


def test_a_disturbed_visit_and_a_model_that_does_not_run():
    one = batch({"m0": [timing(10, disturbed=True)], "m1": [Visit(None, "it crashed")], "m2": [timing(10)],
                 "reference": [timing(100), timing(100)]})  # fmt: skip
    assert one.visit_all([0, 1, 2], busy=False)
    assert (one.interrupted, one.failed) == (1, {1: "it crashed"})
    assert one.unknown() == [0, 2]
    with pytest.raises(DeviceError, match="reference model does not run on the phone: it crashed"):
        batch({"m0": [], "reference": [Visit(None, "it crashed")]}).visit_all([0], busy=False)


def test_passes_go_on_until_a_model_is_known():
    one = batch({"m0": [timing(10)] * 3, "m1": [timing(us) for us in (10, 11, 10, 11, 10, 11)],
                 "reference": [timing(100)] * 20})  # fmt: skip
    passes = []
    while todo := one.unknown():
        passes.append(todo)
        one.visit_all(todo, busy=False)
    assert passes == [[0, 1]] * 3 + [[1]] * 3


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (139, "", "SIGSEGV"), (132, "", "SIGILL: an instruction that this processor lacks"), (137, "", "out of memory"),
        (136, "", "SIGFPE"), (143, "", "SIGTERM"), (159, "", "SIGSYS"),
        (1, "INFO: x\nERROR: Failed to mmap\nERROR: Benchmarking failed.", "exit code 1: ERROR: Failed to mmap |"),
        (1, "", "it does not say why"),
    ],
)  # fmt: skip
def test_why_a_model_does_not_run(code: int, text: str, words: str):
    assert words in phones.why_it_failed(code, text)


def test_a_benchmark_model_that_does_not_run_is_no_model_s_fault():
    with pytest.raises(DeviceError, match="does not run there: sh: not executable"):
        phones.why_it_failed(126, "sh: not executable: 64-bit ELF file")


# On a phone


@pytest.mark.parametrize("style", ["classic", "percentiles", "litert"])
def test_every_kind_of_benchmark_model_is_understood(make_phone: Make, model: Path, style: str):
    with PhoneBench(make_phone(style=style, android=True).device(), 1) as bench:
        (there,) = bench.send(model)
        visit = bench.visit(there, runs=60)
        assert visit.found is not None
        assert visit.found.inference.count >= 60
        assert 1 < visit.found.inference.typical_us < 1e6
        assert (visit.found.inference.median_us is None) == (style == "classic")
        assert visit.found.growth_kb is not None
        assert visit.found.delegated == ("full" if style != "litert" else None)


def test_benchmark_model_that_talks_nonsense_is_refused_in_one_line(make_phone: Make, model: Path):
    phone = make_phone()
    phone.adbd.environment["BENCHMARK_SAYS"] = "Inference timings in us: Init: 1, First inference: 1"
    with PhoneBench(phone.device(), 1) as bench, pytest.raises(DeviceError, match="makes no sense") as caught:
        bench.measure([model], model)
    assert "\n" not in str(caught.value)
    phone.adbd.environment["BENCHMARK_SAYS"] = "hello"
    with PhoneBench(phone.device(), 1) as bench, pytest.raises(DeviceError, match="told no times"):
        bench.measure([model], model)
    assert not (phone.home / "edgenas" / "bench").exists()


def test_a_model_that_hangs_or_is_told_nonsense_of_costs_itself_alone(
    make_phone: Make, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
):
    phone = make_phone(style="canned")
    models = [tmp_path / name for name in ("good", "hangs", "odd", "odd-once")]
    for model in models:
        model.write_text(f"EDGENAS-{model.name.upper()}")
    with PhoneBench(phone.device(), 1) as bench:
        paths, benchmark = bench.send(*models), bench.phone.benchmark

        def hangs(model: str, flags: Sequence[str], timeout_s: float) -> object:
            if model == paths[1]:
                assert timeout_s == phones.HANGS_S
                raise TooSlowError("it hangs")
            return benchmark(model, flags, timeout_s)

        monkeypatch.setattr(bench.phone, "benchmark", hangs)
        found = bench.measure(models, models[0])
        assert [ratio is not None for ratio in found.ratios] == [True, False, False, True]
        assert found.failed[1] == "benchmark_model had not ended after 300 s, and was ended"
        assert "makes no sense" in found.failed[2]
        with pytest.raises(DeviceError, match=r"reference model does not run on the phone: .* makes no sense"):
            bench.measure(models[:1], models[2])


def test_a_link_that_is_lost_is_not_the_model_s_fault(make_phone: Make, model: Path, monkeypatch: pytest.MonkeyPatch):
    phone = make_phone(style="litert")

    def hangs(*_: object) -> None:
        phone.adbd.unplug()
        raise TooSlowError("it hangs")

    with PhoneBench(phone.device(), 1) as bench:
        (there,) = bench.send(model)
        with monkeypatch.context() as patch:
            patch.setattr(bench.phone, "benchmark", hangs)
            with pytest.raises(UnreachableError):
                bench.visit(there)
        phone.plug_in()
        fetch = bench.phone.connection.get
        with monkeypatch.context() as patch:
            patch.setattr(
                bench.phone.connection, "get", lambda *paths, **most: (phone.adbd.unplug(), fetch(*paths, **most))
            )
            with pytest.raises(UnreachableError, match=r"offline|is attached"):
                bench.visit(there)
        phone.plug_in()


def test_a_delegate_that_takes_nothing_is_not_measured_under_its_name(make_phone: Make, model: Path, quick: None):
    phone = make_phone(style="canned")
    runtime = dataclasses.replace(phone.device().runtime, delegate="gpu")
    with PhoneBench(phone.device(runtime=runtime), 1) as bench:
        phone.adbd.environment["BENCHMARK_DELEGATED"] = "not"
        with pytest.raises(CheckFailedError, match=r'delegate takes nothing of the reference model.*"none"'):
            bench.measure([model], model)
        phone.adbd.environment["BENCHMARK_DELEGATED"] = "partially"
        assert bench.measure([model, model], model).delegated == ("partial", "partial")
    own = dataclasses.replace(runtime, delegate="none")  # then no delegate is asked for, and none is told of
    with PhoneBench(phone.device(runtime=own), 1) as bench:
        assert bench.measure([model], model).delegated == (None,)


def test_measure(make_phone: Make, project: Path, model: Path, tmp_path: Path, quiet: LatencyTable):
    odd = tmp_path / "-$(touch canary) 'it'\nis.tflite"
    odd.write_bytes(model.read_bytes())
    phone = make_phone(style="percentiles")
    found = measure_file(odd, phone.device(), runs=100)
    times, us = found["latency_ms"], quiet.reference[1]  # the same virtual machine
    assert [1000 * time for time in (times["median"], *times["ci95"])] == pytest.approx([us] * 3, abs=1)
    assert 1000 * times["first"] == pytest.approx(us, abs=1)
    assert (times["p90"], times["p99"], found["away"]) == (None, None, None)
    assert found["load_ms"] > 0
    assert found["peak_rss_growth_kb"] == 900
    assert (found["delegated"], found["interrupted"]) == ("full", 0)
    assert found["reference_moved"] < 0.02
    assert (found["steadiness"], found["busy_with"]) == ("steady", None)
    assert not (phone.home / "edgenas" / "bench").exists()
    assert not list(phone.root.rglob("canary")) and not (project / "canary").exists()


def test_a_file_that_is_no_model(phone: LabPhone, project: Path, tmp_path: Path):
    (tmp_path / "bad.tflite").write_bytes(b"no model" * 100)
    with pytest.raises(CheckFailedError, match=r"does not run there: .*exit code 1: ERROR: Failed"):
        measure_file(tmp_path / "bad.tflite", phone.device())
    (tmp_path / "bad.tflite").write_bytes(b"EDGENAS-CRASH")
    with pytest.raises(CheckFailedError, match="ended by SIGSEGV"):
        measure_file(tmp_path / "bad.tflite", phone.device())


def test_a_profile_and_what_is_said_of_a_layer(make_phone: Make, project: Path, quiet: LatencyTable, quick: None):
    phone = make_phone()
    device = phone.device()
    device.save()
    table = profile(device, SPACE, "int8", plan=FEW)
    name = table_name(device, SPACE, "int8", 1)
    assert name == "phone-tiny-32x32x3-int8-t1"
    assert LatencyTable.load(name).entries == table.entries
    identity = table.identity
    assert (identity.runtime, identity.delegate, len(identity.runtime_version)) == ("benchmark-model", "XNNPACK", 16)
    assert (identity.cpu, identity.os) == ("EdgeNAS Stand-in (host, x86_64)", "Android 14")
    told = {"delegated": {"full": len(FEW.layers)}, "interrupted": 0, "drifted": 0}
    assert table.provenance.items() >= told.items()
    for layer in FEW.layers:  # the same virtual machine; benchmark_model tells whole microseconds of each inference
        entry, known = table.entries[layer], quiet.entries[layer]
        assert entry.us + table.empty_us == pytest.approx(known.us + quiet.empty_us, abs=1.5)
        assert (entry.cold_us, entry.resident_kb) == (None, None)
    summary = table.certificate_summary()
    assert summary is not None and (summary["networks"], summary["within_5_percent"]) == (1, 1.0)
    assert not (phone.home / "edgenas" / "bench").exists()

    layer = next(iter(table.entries))
    said = explain_layer(device, table, layer)
    assert [kernel["name"] for kernel in said["kernels"]] == ["TfLiteXNNPackDelegate"]
    assert said["total_us"] == pytest.approx(quiet.entries[layer].us + quiet.empty_us, abs=1.5)
    assert said["runtime_version"] == identity.runtime_version

    assert mismatch(table, device, "int8", 1) is None
    gpu = dataclasses.replace(device, runtime=dataclasses.replace(device.runtime, delegate="gpu"))
    assert mismatch(table, gpu, "int8", 1) == "it is for the delegate XNNPACK, wanted is GPU"
    assert table_name(gpu, SPACE, "int8", 1) == f"{name}-gpu"


def test_a_cable_that_comes_out_is_said_and_what_was_measured_is_kept(
    make_phone: Make, project: Path, quick: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edgenas.latency.profiling.profiler.BATCH", 4)
    phone = make_phone(style="canned")

    def cut(what: str, done: int, total: int) -> None:
        if list(Path(".edgenas/profiles").glob("*/measured.jsonl")) and phone.adbd.plugged:
            phone.adbd.unplug()

    with pytest.raises(DeviceError, match=r"offline|is attached"):
        profile(phone.device(), SPACE, "int8", plan=FEW, progress=cut)
    phone.plug_in()
    (path,) = Path(".edgenas/profiles").glob("*/measured.jsonl")
    assert [f"first {network}" in path.read_text() for network in FEW.calibration] == [True] * 2
    with PhoneBench(phone.device(), 1) as bench:  # the phone is free, and can be measured again
        model = MadePool(Path(".edgenas/models"), "int8").path(PLAN.reference)
        assert bench.measure([model], model).ratios[0] is not None


def test_cores_threads_and_delegate_reach_benchmark_model(make_phone: Make, model: Path):
    phone = make_phone()
    log = phone.root / "log"
    phone.tool.write_text(f'#!/bin/sh\n[ "$1" = --help ] || {{ taskset -p $$; echo "$@"; }} >> {log}; exit 1\n')
    for delegate, flag in (("gpu", "--use_gpu=true"), ("nnapi", "--use_nnapi=true"), ("none", "--use_xnnpack=false")):
        runtime = dataclasses.replace(phone.device().runtime, delegate=delegate, cores=(0, 1))
        with PhoneBench(phone.device(runtime=runtime), 2) as bench:
            assert bench.visit("/m").failure is not None
        said = log.read_text()
        assert f"{flag} --num_threads=2 " in said
        assert "mask: 3\n" in said
        log.unlink()


def test_what_is_measured_of_a_model_reaches_benchmark_model(make_phone: Make, project: Path, tmp_path: Path):
    phone, path, log = make_phone(style="canned"), tmp_path / "m.tflite", tmp_path / "log"
    real = phone.tool.rename(tmp_path / "real")
    real.chmod(0o755)
    flags = "--input_layer= --input_layer_shape= --signature_to_run_for="
    phone.tool.write_text(f'#!/bin/sh\n[ "$1" = --help ] && {{ echo "--graph {flags}"; exit 1; }}\n'
                          f'echo "$@" >> {log}\nexec {real} "$@"\n')  # fmt: skip
    path.write_bytes(opened())
    found = measure_file(path, phone.device(), runs=5, shapes={"args_0": (2, 16, 24, 1)})
    assert found["measured"]["inputs"] == {"args_0": [2, 16, 24, 1]}
    lines = log.read_text().splitlines()
    mine = [line for line in lines if " --input_layer=args_0 --input_layer_shape=2,16,24,1 --num_threads=1 " in line]
    assert (len(lines), len(mine)) == (11, 5), "the reference is measured as it is"
    log.unlink()
    path.write_bytes(with_signatures("small", "large"))
    assert measure_file(path, phone.device(), runs=5, signature="large")["measured"]["signature"] == "large"
    assert log.read_text().count(" --signature_to_run_for=large --num_threads=1 ") == 5
    assert "--input_layer" not in log.read_text()


def test_a_benchmark_model_that_cannot_measure_it_so_is_said_to(phone: LabPhone, project: Path, tmp_path: Path):
    path = tmp_path / "m.tflite"
    path.write_bytes(opened())
    with pytest.raises(DeviceError, match="its benchmark_model has no --input_layer, so it cannot measure this model"):
        measure_file(path, phone.device(), shapes={"args_0": (1, 8, 8, 1)})
    path.write_bytes(with_signatures("small", "large"))
    with pytest.raises(DeviceError, match="its benchmark_model has no --signature_to_run_for"):
        measure_file(path, phone.device(), signature="large")


@pytest.mark.parametrize("cores", [None, (0,)])
def test_no_more_threads_than_cores(phone: LabPhone, project: Path, model: Path, cores: tuple[int, ...] | None):
    device = phone.device(runtime=dataclasses.replace(phone.device().runtime, cores=cores))
    words = "kept on 1 core: no room" if cores else f"expected 1 to {os.cpu_count()} threads .* received 1500"
    for work in (
        lambda: measure_file(model, device, threads=1500),
        lambda: kernels_in(model, device, threads=1500),
        lambda: PhoneBench(device, 1500).__enter__(),
    ):
        with pytest.raises(InputError, match=words):
            work()
    assert not (phone.home / "edgenas" / "bench").exists()


def test_a_model_gets_a_quarter_of_the_phone_s_memory_and_dies_first(make_phone: Make, model: Path):
    phone = make_phone(android=True)
    log = phone.root / "log"
    phone.tool.write_text(f'#!/bin/sh\n[ "$1" = --help ] || {{ ulimit -d; cat /proc/self/oom_score_adj; }} > {log}\n'
                          'echo "Failed to allocate tensors!"; exit 1\n')  # fmt: skip
    with PhoneBench(phone.device(), 1) as bench:
        part_kb = bench.info.memory_total_kb // 4
        told = f" (it may take {part_kb / 1024:.0f} MB of memory, a quarter of the device's)"
        assert bench.visit("/m").failure == f"benchmark_model ended with exit code 1: Failed to allocate tensors!{told}"
        assert log.read_text().split() == [str(part_kb), "1000"]
    assert phones.why_it_failed(134, "", part_kb) == f"benchmark_model was ended by SIGABRT{told}"
    assert phones.why_it_failed(132, "", part_kb).endswith("SIGILL: an instruction that this processor lacks")
    assert phones.why_it_failed(1, "ERROR: Failed to mmap", part_kb).endswith("mmap"), "it has no part in that"


def test_no_benchmark_model_on_the_host(phone: LabPhone, tmp_path: Path):
    runtime = dataclasses.replace(phone.device().runtime, benchmark_model=str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="cannot be read"), PhoneBench(phone.device(runtime=runtime), 1):
        pass
