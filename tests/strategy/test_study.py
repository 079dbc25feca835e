import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgenas.errors import EdgeNASError, InputError
from edgenas.evaluation.evaluator import Evaluated
from edgenas.strategy import Limits
from tests.strategy.conftest import Formula, values


def trials_of(study):
    return study._stored.get_trials(deepcopy=False)


@pytest.mark.parametrize("strategy", ["random", "nsga2", "tpe"])
def test_nothing_infeasible_and_nothing_twice_is_trained_or_stored(make_study, strategy, half):
    study = make_study(strategy=strategy)
    evaluator = Formula()
    front = study.run(evaluator)
    trials = trials_of(study)
    assert len(trials) == 30 == len(evaluator.seen)
    assert len(set(evaluator.seen)) == 30
    assert len({trial.user_attrs["id"] for trial in trials}) == 30
    assert all(trial.user_attrs["latency_high_ms"] <= half.max_latency_ms for trial in trials)
    assert study.counts()["infeasible"] > 0  # half the space breaks the limit, so some proposals did
    assert all(point.latency_interval_ms[1] <= half.max_latency_ms for point in front)


def test_a_study_that_is_broken_off_proposes_what_it_would_have(make_study):
    whole, broken = Formula(), Formula()
    make_study("whole", trials=12).run(whole)
    for _ in range(3):

        class Breaks(Formula):
            def evaluate(self, candidates):
                if len(self.seen) == 3:
                    raise KeyboardInterrupt
                done = super().evaluate(candidates)
                broken.seen += [candidate.architecture.id for candidate in candidates]
                return done

        with pytest.raises(KeyboardInterrupt):
            make_study("broken", trials=12).run(Breaks())
    make_study("broken", trials=12).run(broken)
    assert broken.seen == whole.seen


def test_more_trials_go_on_where_the_study_ended(make_study):
    make_study(trials=5).run(Formula())
    more = Formula()
    front = make_study(trials=8).run(more)
    assert len(more.seen) == 3
    assert len(front) > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_a_failed_trial(make_study, bad):
    class Sometimes(Formula):
        def evaluate(self, candidates):
            results = super().evaluate(candidates)
            spoiled = Evaluated({**values(candidates[0]), "accuracy": bad}, None, 0.0)
            return [spoiled] if len(self.seen) == 3 else results

    study = make_study(trials=6)
    study.run(Sometimes())
    states = [trial.state.name for trial in trials_of(study)]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert all(math.isfinite(point.accuracy) for point in study.front)


def test_ten_failures_in_a_row_stop_the_search(make_study):
    class Never(Formula):
        def evaluate(self, candidates):
            return [Evaluated(None, "out of memory", 0.0) for _ in candidates]

    with pytest.raises(EdgeNASError, match=r"last 10 candidates all failed.*out of memory"):
        make_study().run(Never())


def test_an_impossible_limit_is_named_with_what_can_be_reached(make_study):
    with pytest.raises(InputError, match=r"--max-latency-ms 0.001 \(the nearest reachable value is 0.01") as caught:
        make_study(limits=Limits(max_latency_ms=0.001)).run(Formula())
    reachable = float(str(caught.value).split("value is ")[1].split(")")[0])
    make_study("loose", trials=1, limits=Limits(max_latency_ms=reachable)).run(Formula())


def test_a_limit_that_leaves_few_networks_ends_with_its_reason(make_study):
    tightest = Limits(max_model_kb=12.43)  # 14 networks of this space are that small
    with pytest.raises(InputError, match="no new network that keeps the limits"):
        make_study(trials=20, limits=tightest).run(Formula())


SCRIPT = """
import sys, time
sys.path.insert(0, {root!r})
import numpy as np
from tests.strategy import conftest
from edgenas.strategy import Limits, Settings, Study
from edgenas.strategy.objectives import FreeObjectives

class Slow(conftest.Formula):
    def evaluate(self, candidates):
        print(candidates[0].architecture.id, flush=True)
        time.sleep(0.05)
        return super().evaluate(candidates)

space = conftest.MobileSpace("tiny", (28, 28, 1), 10)
table = conftest.table.__wrapped__(space)
limits = conftest.half.__wrapped__(space, table)
settings = Settings(study=sys.argv[1], data="none", device="board", table="none", space="tiny", input_shape=(28, 28, 1),
                    trials=12, strategy="tpe", limits=limits)
Study(settings, space, FreeObjectives(space, table, "int8", limits)).run(Slow())
"""


def test_killed_three_times_it_ends_as_if_nothing_had_happened(tmp_path: Path):
    root = str(Path(__file__).parents[2])
    script = tmp_path / "search.py"
    script.write_text(SCRIPT.format(root=root))
    whole = subprocess.run([sys.executable, script, "whole"], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = whole.stdout.split()
    assert len(expected) == 12
    for kill in range(3):
        process = subprocess.Popen([sys.executable, script, "killed"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(2 + kill):  # so many candidates are begun
            assert process.stdout is not None
            process.stdout.readline()
        time.sleep(0.06 * kill)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([sys.executable, script, "killed"], cwd=tmp_path, capture_output=True, check=True)
    import optuna

    stored = optuna.load_study(study_name="killed", storage=f"sqlite:///{tmp_path / 'studies/killed/study.db'}")
    assert [trial.user_attrs["id"] for trial in stored.trials] == expected
    assert all(trial.state.name == "COMPLETE" for trial in stored.trials)


def test_the_settings_of_a_trial_are_its_network(make_study, space):
    study = make_study(trials=5)
    study.run(Formula())
    for trial in trials_of(study):
        assert space.decode(trial.params).id == trial.user_attrs["id"]
    assert dataclasses.asdict(study.settings)["trials"] == 5
