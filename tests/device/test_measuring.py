"""Models measured by agents of their own process, on a virtual machine: what the host gets, and what is lost with it.

The rounds and the visits themselves are tests/device/test_rounds.py and test_running.py."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgenas.device import Connection, open_agent
from edgenas.errors import CheckFailedError, DeviceError

Weather = Callable[..., None]


def test_measure_in_interleaved_rounds(local: Connection, models: Path):
    seen: list[dict[str, int]] = []
    names = [str(models / f"{name}.tflite") for name in ("float32", "int8", "layer")] * 11
    with open_agent(local) as agent:
        answer = agent.call("measure", models=names, reference=names[1], visits=7, seed=3, on_progress=seen.append)
        again = agent.call("measure", models=names, reference=names[1], visits=7, seed=4, expected_us=1.0)
    json.dumps(answer, allow_nan=False)
    assert answer["failed"] == {}
    assert seen == [{"round": number, "left": 33, "models": 33} for number in range(1, 8)]
    assert (answer["visits"], answer["interrupted"], answer["drifted"]) == (33 * 7, 0, 0)
    assert len(answer["reference_us"]) == 7 * 4, "at the start, after 16 models, after 32, after the last"
    reference_us = float(np.median(answer["reference_us"]))
    assert answer["reference_us"] == pytest.approx([reference_us] * 28, rel=0.005)
    for number, model in enumerate(answer["models"]):
        us = answer["models"][number % 3]["visits_us"][0]
        assert model["visits_us"] == pytest.approx([us] * 7, rel=0.005)
        assert model["cold_us"] == pytest.approx([1.5 * us] * 7, rel=0.01), "with the caches full of other data"
        assert model["around_us"] == pytest.approx([reference_us] * 7, rel=0.005)
        assert abs(model["repeats"] - math.ceil(200 / us)) <= 1, "a visit lasts 200 us or more"
        assert model["first_us"] == pytest.approx(us, rel=0.005)
        assert model["load_us"] == 5000
    assert reference_us == pytest.approx(answer["models"][1]["visits_us"][0], rel=0.005)
    assert [model["visits_us"] for model in again["models"]] == [[]] * 33, "slower than what is expected"
    assert (again["drifted"], again["interrupted"]) == (again["visits"], 0)


def test_what_disturbs_a_device_gives_fewer_visits_and_not_other_numbers(
    local: Connection, models: Path, weather: Weather
):
    names = [str(models / f"{name}.tflite") for name in ("float32", "int8", "layer")]

    def measure() -> tuple[dict[str, int], list[float]]:
        with open_agent(local) as agent:
            answer = agent.call("measure", models=names, reference=names[1], visits=20)
        return answer, [float(np.median(model["visits_us"])) for model in answer["models"]]

    _, quiet = measure()
    weather(lost_every=701, lost_us=400.0)
    answer, disturbed = measure()
    assert answer["interrupted"] > 0 and answer["drifted"] > 0
    assert disturbed == pytest.approx(quiet, rel=0.005)
    assert max(us for model in answer["models"] for us in model["visits_us"]) < 1.01 * max(quiet)  # type: ignore[index]


def test_what_is_no_model_is_named_and_the_others_are_measured(local: Connection, models: Path, tmp_path: Path):
    good = str(models / "int8.tflite")
    (tmp_path / "bad.tflite").write_bytes(b"no model" * 100)
    (tmp_path / "half.tflite").write_bytes(Path(good).read_bytes()[:600])
    paths = [str(tmp_path / "bad.tflite"), good, str(tmp_path / "half.tflite"), str(tmp_path / "none.tflite")]
    with open_agent(local) as agent:
        answer = agent.call("measure", models=paths, reference=good, visits=3)
        assert sorted(answer["failed"]) == ["0", "2", "3"]
        assert all(reason.startswith("invalid model: ") for reason in answer["failed"].values())
        assert [model is None for model in answer["models"]] == [True, False, True, True]
        with pytest.raises(DeviceError, match="the reference model cannot be measured"):
            agent.call("measure", models=[good], reference=paths[0], visits=3)
        with pytest.raises(CheckFailedError, match="not a valid"):
            agent.call("single", model=paths[0], runs=3)
        answer = agent.call("measure", models=[], reference=good, visits=2)
        assert (answer["models"], len(answer["reference_us"])) == ([], 15), "how fast the device is now"


def test_a_model_that_kills_its_process_is_found_and_the_others_are_measured(
    local: Connection, models: Path, weather: Weather
):
    good = [str(models / f"{name}.tflite") for name in ("float32", "int8", "layer")]
    killer, hungry = models / "killer.tflite", models / "hungry.tflite"
    killer.write_bytes(Path(good[0]).read_bytes() + bytes(8))
    hungry.write_bytes(Path(good[0]).read_bytes() + bytes(16))
    sizes = {killer: signal.SIGSEGV, hungry: signal.SIGKILL}
    weather(kills={str(path.stat().st_size): number for path, number in sizes.items()})
    with open_agent(local) as agent:
        answer = agent.call("measure", models=[*good, str(killer), *good, str(hungry)], reference=good[0], visits=3)
        causes = {index: why.partition(" (it may take ")[0] for index, why in answer["failed"].items()}
        assert causes == {"3": "killed by SIGSEGV", "7": "killed by SIGKILL"}
        assert [index for index, model in enumerate(answer["models"]) if model is None] == [3, 7]
        assert all(len(model["visits_us"]) == 3 for model in answer["models"] if model)
        with pytest.raises(DeviceError, match=r"the reference model cannot be measured: .*SIGSEGV"):
            agent.call("measure", models=good, reference=str(killer), visits=1)
        for model, reason in ((killer, "SIGSEGV"), (hungry, "SIGKILL")):
            with pytest.raises(CheckFailedError, match=f"the model's process was killed by {reason}"):
                agent.call("single", model=str(model), runs=1)
        assert len(agent.call("single", model=good[0], runs=3)["times_us"]) == 3, "the agent goes on"


def test_single_and_infer(local: Connection, models: Path, tmp_path: Path):
    model = str(models / "float32.tflite")
    samples = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
    np.save(tmp_path / "in.npy", samples)
    with open_agent(local) as agent:
        answer = agent.call("single", model=model, runs=20, warmup=2)
        assert answer["times_us"] == pytest.approx([answer["times_us"][0]] * 20, rel=0.005)
        assert (answer["lost"], answer["away"]) == ([False] * 20, 0.0)
        assert answer["first_us"] == pytest.approx(answer["times_us"][0], rel=0.005)
        file_kb = Path(model).stat().st_size // 1024
        assert (answer["load_us"], answer["peak_rss_growth_kb"]) == (5000, 1000 + file_kb), "the machine's, the file's"
        assert answer["inputs"] == [{"shape": [1, 8, 8, 1], "dtype": "float32", "scale": 0.0, "zero_point": 0}]
        assert answer["outputs"][0]["shape"] == [1, 10]
        paths = {"model": model, "inputs": str(tmp_path / "in.npy"), "outputs": str(tmp_path / "out.npy")}
        assert agent.call("infer", **paths)["rows"] == 5
        outputs = np.load(tmp_path / "out.npy")
        assert outputs.shape == (5, 10) and len(np.unique(outputs, axis=0)) == 5
        np.save(tmp_path / "in.npy", samples[2:3])
        agent.call("infer", **paths)
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), outputs[2:3])
        np.save(tmp_path / "in.npy", samples[:, :4])
        with pytest.raises(CheckFailedError, match=r"takes \[8, 8, 1\], the samples are \[4, 8, 1\]"):
            agent.call("infer", **paths)
