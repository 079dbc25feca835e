"""Whatever a study's database holds is one line and exit code 2, and stops no other study."""

import json
import sqlite3
from pathlib import Path

import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from edgenas.strategy import Settings, StoredStudy
from edgenas.strategy.settings import begin
from edgenas.strategy.study import open_storage
from tests.terminal import Terminal

NOTES = {
    "id": "0" * 12, "notation": "input_8x8x1 dense_n2", "infeasible": 0, "duplicate": 0, "hand_made": None,
    "learned": True, "interval": [0.4, 0.6], "seconds": 1.5, "error": None, "latency_ms": 1.0, "latency_low_ms": 0.9,
    "latency_high_ms": 1.1, "arena_kb": 3.0, "model_kb": 4.0, "peak_memory_kb": 5.0,
}  # fmt: skip


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of one trial, beside another."""
    monkeypatch.chdir(tmp_path)
    for name in ("night", "other"):
        begin(Settings(name, "digits", "board", "t", "tiny", (8, 8, 1)))
        stored = open_storage(Path("studies", name), name, create=True)
        stored.add_trial(
            create_trial(
                state=TrialState.COMPLETE, values=[0.5, 1.0, 5.0], params={"a": 1},
                distributions={"a": IntDistribution(0, 9)}, user_attrs=NOTES,
            )
        )  # fmt: skip
    return tmp_path / "studies" / "night" / "study.db"


def note(key: str, value: object) -> str:
    return f"update trial_user_attributes set value_json='{json.dumps(value)}' where key='{key}'"


@pytest.mark.parametrize(
    "change",
    [
        "delete from trial_user_attributes where key='latency_ms'", note("id", 7), note("latency_ms", "x"),
        note("seconds", []), note("infeasible", {}), note("interval", [1]), note("arena_kb", 10**400),
        "update trial_user_attributes set value_json='['", "update trial_values set value=x'ff', value_type='FINITE'",
        "update trials set state='DONE'", "update study_directions set direction='x'", "drop table trials",
        f"update trial_user_attributes set value_json='{'[' * 100_000}'",
    ],
    ids=lambda change: change[:70],
)  # fmt: skip
def test_what_no_study_writes_is_one_line(night: Path, change: str) -> None:
    assert len(StoredStudy("night").points) == 1
    with sqlite3.connect(night) as database:
        database.execute(change)
    database.close()
    user = Terminal(night.parents[2])
    for words in (("pareto", "night"), ("study", "show", "night")):
        user.is_refused(2, "study", *words)
    done = user.types("study", "list", "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 2 and list(answer["unreadable"]) == ["night"]
    assert [row["study"] for row in answer["studies"]] == ["other"]


def test_a_point_is_what_was_stored(night: Path) -> None:
    (point,) = StoredStudy("night").points
    assert (point.id, point.accuracy, point.latency_interval_ms, point.accuracy_interval) == (
        "0" * 12, 0.5, (0.9, 1.1), (0.4, 0.6),
    )  # fmt: skip
