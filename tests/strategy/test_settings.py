import dataclasses

import pytest

from edgenas.errors import InputError
from edgenas.strategy import Limits, Settings, load_settings
from edgenas.strategy.settings import begin


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def settings(**more):
    return Settings("shoes", "data", "pi", "t", "tiny", (28, 28, 1), **more)


def test_what_is_written_is_read_again():
    begun = begin(settings(limits=Limits(max_latency_ms=2.5), group_pattern=r"p(\d+)"))
    assert load_settings("shoes") == begun


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
