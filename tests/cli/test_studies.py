"""`edgenas study`, `table remove`, `predict`: looking at what is there, and removing it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgenas.files as files
from edgenas.deploy import Bundle
from edgenas.strategy import Settings
from edgenas.strategy.settings import begin, remove_study
from edgenas.strategy.study import open_storage
from tests.made import BUNDLE
from tests.terminal import Terminal


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """With a study that has found nothing yet."""
    monkeypatch.chdir(tmp_path)
    begin(Settings(study="night", data="digits", device="board", table="t", space="tiny", input_shape=(8, 8, 1)))
    open_storage(tmp_path / "studies" / "night", "night", create=True)
    (tmp_path / "studies" / "night" / "bundles" / "b1").mkdir(parents=True)
    (tmp_path / "studies" / "night" / "bundles" / "b1" / "model.tflite").write_bytes(b"x" * 1000)
    return Terminal(tmp_path)


def test_studies_are_listed_and_shown(user: Terminal) -> None:
    (row,) = json.loads(user.types("study", "list", "--json").stdout)["studies"]
    assert (row["study"], row["data"], row["trials"], row["best_accuracy"]) == ("night", "digits", 0, None)
    assert "night" in user.types("study", "list").stdout
    said = json.loads(user.types("study", "show", "night", "--json").stdout)
    assert said["settings"]["space"] == "tiny" and said["bundles"] == ["studies/night/bundles/b1"]
    assert "0 of 50, 0 failed" in user.types("study", "show", "night").stdout
    refused = user.types("study", "show", "nigth")
    assert refused.returncode == 2 and "Did you mean 'night'" in refused.stderr


def test_a_study_is_removed_when_it_is_meant(user: Terminal, tmp_path: Path) -> None:
    dry = json.loads(user.types("study", "remove", "night", "--dry-run", "--json").stdout)
    assert dry["bundles"] == ["b1"] and dry["size_bytes"] > 1000
    assert (tmp_path / "studies" / "night" / "study.toml").is_file()
    done = user.types("study", "remove", "night")
    assert done.returncode == 0 and "with 1 bundle." in done.stdout
    assert not (tmp_path / "studies" / "night").exists()
    assert user.types("study", "remove", "night").returncode == 2
    assert "no study here yet" in user.types("study", "list").stdout


def test_a_removal_that_is_broken_off_can_be_gone_on_with(
    user: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings, by which a study is known, go last."""

    def broken(path: Path, *_: object, **__: object) -> None:
        raise OSError(f"{path} is busy")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", broken)
        with pytest.raises(OSError, match="is busy"):
            remove_study("night")
    assert (tmp_path / "studies" / "night" / "study.toml").is_file()
    assert remove_study("night") > 0
    assert not (tmp_path / "studies" / "night").exists()


def test_a_table_of_the_user_s_is_removed(user: Terminal, tmp_path: Path) -> None:
    (tmp_path / "latency_tables").mkdir()
    (tmp_path / "latency_tables" / "mine.json").write_text("{}")
    assert user.types("table", "remove", "mine").stdout == "mine removed.\n"
    assert not (tmp_path / "latency_tables" / "mine.json").exists()
    for name in ("mine", "../studies/night/study"):
        assert user.types("table", "remove", name).returncode == 2


def test_a_bundle_says_what_it_makes_of_files(user: Terminal, tmp_path: Path) -> None:
    bundle = Bundle.load(BUNDLE)
    assert bundle.samples is not None
    wanted = {}
    for number, pixels in enumerate(bundle.samples.images[:12]):
        Image.fromarray(pixels[..., 0]).save(tmp_path / f"{number}.png")
        wanted[f"{number}.png"] = bundle.labels[int(bundle.samples.outputs[number].argmax())]
    said = json.loads(user.types("predict", str(BUNDLE), *wanted, "--json").stdout)["predictions"]
    assert {one["file"]: one["label"] for one in said} == wanted
    for one in said:
        assert sum(one["scores"].values()) == pytest.approx(1)
        assert list(one["scores"].values()) == sorted(one["scores"].values(), reverse=True)
    line = user.types("predict", str(BUNDLE), "0.png", "--top", "1").stdout
    assert line.startswith(f"0.png: {wanted['0.png']} ") and line.strip().endswith("%")
    (tmp_path / "no.png").write_bytes(b"no image")
    refused = user.types("predict", str(BUNDLE), "no.png")
    assert (refused.returncode, refused.stdout) == (2, "") and "no.png: no image of a known format" in refused.stderr
    assert files.sha256(bundle.model_path) == bundle.manifest.files["model.tflite"]
    assert np.isfinite([score for one in said for score in one["scores"].values()]).all()
