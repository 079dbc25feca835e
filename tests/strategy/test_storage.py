"""Looking at a study makes none, and a database that was lost is not an empty one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgenas.cli.main import cli
from edgenas.errors import EdgeNASError, InputError
from edgenas.ledger import Ledger
from edgenas.strategy import Settings, StoredStudy
from edgenas.strategy.settings import begin
from edgenas.strategy.study import open_storage

COMMANDS = (("pareto", "night"), ("report", "night"), ("study", "show", "night"), ("study", "list"))


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a study of one trial, as far as its ledger says."""
    monkeypatch.chdir(tmp_path)
    begin(Settings(study="night", data="digits", device="board", table="t", space="tiny", input_shape=(8, 8, 1)))
    folder = tmp_path / "studies" / "night"
    open_storage(Path("studies/night"), "night", create=True)
    Ledger(folder / "ledger.jsonl").append("trial", id="x")
    return folder


def _tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _lost(folder: Path) -> None:
    (folder / "study.db").unlink()


def _lost_with_its_ledger(folder: Path) -> None:
    _lost(folder)
    (folder / "ledger.jsonl").unlink()
    (folder / "bundles").mkdir()


def _of_another(folder: Path) -> None:
    """As in a folder that was renamed."""
    open_storage(folder.parents[1] / "day", "day", create=True)
    (folder.parents[1] / "day" / "study.db").rename(folder / "study.db")


def _dangling(folder: Path) -> None:
    _lost(folder)
    (folder / "study.db").symlink_to("nowhere")


def _folder(folder: Path) -> None:
    _lost(folder)
    (folder / "study.db").mkdir()


def _empty(folder: Path) -> None:
    _lost(folder)
    (folder / "study.db").touch()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            _lost,
            r"The study 'night' has lost its database: studies/night/study\.db is not there, or empty\. Put it back",
        ),
        (_lost_with_its_ledger, "The study 'night' has lost its database"),
        (_of_another, r"study\.db holds 'day', not the study 'night'\. .*renamed\? Call it studies/day again"),
        (_dangling, r"study\.db of the study 'night' is no file\. Put it back"),
        (_folder, r"study\.db of the study 'night' is no file"),
        (_empty, "The study 'night' has lost its database"),
    ],
)
def test_a_database_that_is_not_the_study_s_is_an_error(
    night: Path, change: Callable[[Path], None], words: str
) -> None:
    assert StoredStudy("night").counts()["complete"] == 0
    change(night)
    before = _tree(night)
    with pytest.raises(EdgeNASError, match=words):
        StoredStudy("night")
    for command in COMMANDS:
        with pytest.raises(EdgeNASError, match=words) as caught:
            CliRunner().invoke(cli, [*command], catch_exceptions=False)
        assert caught.value.exit_code == 2
    assert _tree(night) == before, "looking at it made nothing"
    with pytest.raises(EdgeNASError, match=words):
        open_storage(Path("studies/night"), "night", create=True)


def test_a_study_that_tried_nothing_yet_is_empty_and_stays_so(night: Path) -> None:
    """It was broken off while it began."""
    (night / "study.db").unlink()
    (night / "ledger.jsonl").unlink()
    before = _tree(night)
    assert StoredStudy("night").counts()["complete"] == 0
    assert CliRunner().invoke(cli, ["study", "list"]).exit_code == 0
    assert _tree(night) == before
    open_storage(Path("studies/night"), "night", create=True)
    assert (night / "study.db").is_file()


def test_a_name_that_is_no_study_makes_no_folder(night: Path) -> None:
    with pytest.raises(InputError, match=r"There is no study 'nigth'\. Did you mean 'night'\?"):
        CliRunner().invoke(cli, ["pareto", "nigth"], catch_exceptions=False)
    assert [path.name for path in night.parent.iterdir()] == ["night"]
    with pytest.raises(InputError):
        StoredStudy("../night")
