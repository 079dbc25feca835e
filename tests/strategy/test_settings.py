import dataclasses
import tomllib

import pytest

from edgenas.errors import InputError
from edgenas.evaluation.recipe import Fidelity, Recipe
from edgenas.strategy import Final, Limits, Settings, load_settings
from edgenas.strategy.settings import begin


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def settings(**more):
    return Settings("shoes", "data", "pi", "t", "tiny", (28, 28, 1), **more)


def test_what_is_written_is_read_again():
    begun = begin(settings(limits=Limits(max_latency_ms=2.5), group_pattern=r"p(\d+)"))
    assert load_settings("shoes") == begun


GIVEN = settings(
    fidelity=Fidelity(steps=75, share=0.5, scale=0.75),
    recipe=Recipe(64, 0.002, 0.01, 0.1, "strong", flip=True, mixup=0.2, balance_classes=True),
    final=Final(steps=900, most_steps=2000),
)


@pytest.mark.parametrize("begun", [settings(), GIVEN], ids=["left to the data", "given"])
def test_how_networks_are_trained_is_read_again(begun, tmp_path):
    begin(begun)
    assert load_settings("shoes") == begun
    begin(begun)  # the same settings: the study goes on
    written = tomllib.loads((tmp_path / "studies/shoes/study.toml").read_text())
    assert ("steps" in written["fidelity"]) == ("batch_size" in written["recipe"]) == (begun is GIVEN)


def test_what_is_left_to_the_data_may_not_be_given_later():
    begin(settings())
    with pytest.raises(InputError, match=r"other settings: fidelity was .*'steps': None.*, now .*'steps': 75"):
        begin(settings(fidelity=Fidelity(steps=75)))
    with pytest.raises(InputError, match=r"other settings: final was .*'steps': None.*, now .*'steps': 900"):
        begin(settings(final=Final(steps=900)))


def test_a_study_of_an_older_edgenas_is_refused_by_the_name_that_it_gives(tmp_path):
    begin(settings())
    path = tmp_path / "studies/shoes/study.toml"
    path.write_text(path.read_text().replace("[fidelity]", "[fidelity]\nepochs = 3"))
    with pytest.raises(InputError, match=r"study\.toml: fidelity: unknown key 'epochs'"):
        load_settings("shoes")


def test_a_name_that_is_taken_names_the_differences():
    begin(settings(seed=1))
    with pytest.raises(InputError, match=r"other settings: seed was 1, now 2\. Choose another name"):
        begin(settings(seed=2))
    begin(settings(seed=1, trials=99))
    assert load_settings("shoes").trials == 99


def test_unknown_study_offers_the_near_one():
    begin(settings())
    with pytest.raises(InputError, match="Did you mean 'shoes'"):
        load_settings("shoe")


@pytest.mark.parametrize("name", ["../evil", "", "a b", "-x", "x" * 80])
def test_names_that_are_no_file_names_are_refused(name):
    with pytest.raises(InputError, match="is no name for a study"):
        dataclasses.replace(settings(), study=name)


def test_limits_must_be_positive():
    with pytest.raises(InputError, match="max_latency_ms: expected more than 0, received -1"):
        Limits(max_latency_ms=-1)


@pytest.mark.parametrize("values", [{"steps": 0}, {"steps": -1}, {"most_steps": 0}, {"steps": 5, "most_steps": -1}])
def test_a_last_training_has_steps(values):
    with pytest.raises(InputError, match=r"Expected steps and most_steps >= 1\. Received: Final\(steps="):
        Final(**values)


@pytest.mark.parametrize("values", [{"steps": 0}, {"share": 0}, {"share": 1.1}, {"scale": 0}, {"scale": 1.1}])
def test_a_candidate_has_steps_images_and_an_input(values):
    with pytest.raises(InputError, match=r"Expected steps >= 1, share and scale in \(0, 1\]\. Received: Fidelity"):
        Fidelity(**values)


@pytest.mark.parametrize(
    "values",
    [{"batch_size": 1}, {"learning_rate": 0}, {"learning_rate": float("nan")}, {"weight_decay": -0.1},
     {"label_smoothing": 1}, {"mixup": -1}],
    ids=str,
)  # fmt: skip
def test_a_recipe_that_cannot_be_followed_is_refused(values):
    with pytest.raises(InputError, match=r"Received: Recipe\("):
        Recipe(**values)
