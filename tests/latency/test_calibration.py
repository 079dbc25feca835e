"""What a few whole networks teach about the sum of layers."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from edgenas.architecture import Architecture
from edgenas.errors import InputError
from edgenas.latency.table import LatencyTable
from edgenas.latency.table.calibration import (
    FEATURES,
    Calibration,
    Loads,
    cache_terms,
    choose_networks,
    features,
    fit,
    refetch_us,
)
from edgenas.latency.table.certificate import Certificate, Network, quality
from edgenas.space import MobileSpace
from tests.latency.conftest import SPACE

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pool() -> list[Architecture]:
    return SPACE.decode_codes(SPACE.sample(np.random.default_rng(5), 300))


@pytest.fixture(scope="module")
def sums(pool: list[Architecture]) -> np.ndarray:
    return np.array([total(network) for network in pool])


def total(network: Architecture) -> np.ndarray:
    """Features of a network on a device of the test's own."""
    return np.sum([features(x, x.macs / 1e4 + 1) for x in network.layers()], axis=0)


NO_LOADS = Loads(np.zeros(3), np.zeros(3))


def predict(calibration: Calibration, sums: np.ndarray) -> np.ndarray:
    """[N] times of networks that ask nothing of the caches."""
    weights = [calibration.coefficients[name] for name in FEATURES]
    return np.asarray(sums @ weights + calibration.offset_us)


def test_a_layer_adds_its_share_to_each_feature():
    network = SPACE.decode({name: options[-1] for name, options in SPACE.choices.items()})
    for layer in network.layers():
        found = dict(zip(FEATURES, features(layer, 7.0), strict=True))
        assert found["sum"] == 7.0
        assert found["kernel7"] == (7.0 if "mbconv_k7" in str(layer) else 0)
        assert found["gate"] == (7.0 if "_se0.25" in str(layer) else 0)
        assert found["weights_kb"] == layer.parameters / 1024
    # What a network's features sum up to is what its layers add.
    told = {"sum": 1.1, "blocks": 2.0, "weights_kb": 0.3}
    costs = Calibration(told, 5.0)
    each = [costs.layer_us(x, x.macs / 1e4 + 1) for x in network.layers()]
    assert sum(each) == pytest.approx(total(network) @ [told.get(name, 0) for name in FEATURES])


def test_a_device_that_follows_the_features_is_learned(pool: list[Architecture], sums: np.ndarray):
    weights = np.zeros(len(FEATURES))
    weights[[0, FEATURES.index("kernel7"), FEATURES.index("weights_kb")]] = 1.1, 0.4, 0.2
    truth = (sums @ weights + 12.0) * RNG.normal(1, 0.005, len(sums))
    taught, tested = slice(0, 60), slice(60, None)
    errors = np.abs(predict(fit(sums[taught], truth[taught], [NO_LOADS] * 60), sums) / truth - 1)[tested]
    assert np.mean(errors) < 0.01
    assert np.mean(np.abs(sums[tested, 0] / truth[tested] - 1)) > 0.1, "the plain sum is far off"


def test_few_and_noisy_networks_change_little(sums: np.ndarray):
    """Noise alone teaches next to nothing: on other networks the fit is hardly worse than the plain sum."""
    for seed in range(20):
        noisy = sums[:6, 0] * np.random.default_rng(seed).normal(1, 0.03, 6)
        errors = np.abs(predict(fit(sums[:6], noisy, [NO_LOADS] * 6), sums[6:]) / sums[6:, 0] - 1)
        assert np.mean(errors) < 0.05


def test_chosen_networks_tell_more_than_random_ones(pool: list[Architecture], sums: np.ndarray):
    weights = np.zeros(len(FEATURES))
    weights[:] = [1.05, 0.2, -0.2, 0.1, 0.3, 0.2, -0.1, 1.0, 0.05, 0.02]
    truth = sums @ weights + 5.0
    chosen = [pool.index(network) for network in choose_networks(pool, 20)]
    assert len(set(chosen)) == 20

    def error(rows: list[int], seed: int) -> float:
        noisy = truth[rows] * np.random.default_rng(seed).normal(1, 0.01, len(rows))
        fitted = fit(sums[rows], noisy, [NO_LOADS] * len(rows))
        return float(np.mean(np.abs(predict(fitted, sums) / truth - 1)))

    random = [list(np.random.default_rng(seed).choice(len(pool), 20, replace=False)) for seed in range(20)]
    assert np.mean([error(chosen, seed) for seed in range(20)]) < np.mean([error(random[s], s) for s in range(20)])


# Caches


def test_what_fits_is_not_fetched_again():
    """By hand: three layers, and caches of 100 kB."""
    reload_us = np.array([10.0, 20.0, 30.0])

    def spent(*resident_kb: float) -> float:
        terms = cache_terms(reload_us, np.array(resident_kb), 100.0)
        return float(refetch_us(terms.sum(axis=0)[None], 100.0)[0])

    assert spent(10, 20, 30) == 0
    assert spent(50, 50, 100) == pytest.approx(60 * (1 - 100 / 200))
    # The third keeps 400 kB: three quarters of its reload time it pays alone already.
    alone = 30 * (100 / 400) * (1 - 400 / 500)
    assert spent(50, 50, 400) == pytest.approx(30 * (1 - 100 / 500) + alone)


def test_the_size_of_the_caches_is_learned(sums: np.ndarray):
    rng = np.random.default_rng(3)
    asked = [Loads(rng.uniform(1, 40, 8), rng.uniform(10, 600, 8)) for _ in range(len(sums))]
    extra = []
    for load in asked:
        terms = cache_terms(load.reload_us, load.resident_kb, 1448.0).sum(axis=0)
        extra.append(0.8 * refetch_us(terms[None], 1448.0)[0])
    truth = (sums[:, 0] * 0.2 + np.array(extra) + 8) * rng.normal(1, 0.005, len(sums))
    fitted = fit(sums[:60], truth[:60], asked[:60])
    assert 900 < fitted.cache_kb < 2300
    assert 0.5 < fitted.refetch < 1.1


def test_networks_that_are_faster_where_they_keep_more_spend_no_less_than_nothing_on_fetching(sums: np.ndarray):
    """The fit's share of the caches would be negative: that is noise, and it is not taken for time that is saved."""
    rng = np.random.default_rng(3)
    asked = [Loads(rng.uniform(1, 40, 8), rng.uniform(10, 600, 8)) for _ in range(len(sums))]
    terms = [cache_terms(load.reload_us, load.resident_kb, 1448.0).sum(axis=0) for load in asked]
    saved = np.array([refetch_us(term[None], 1448.0)[0] for term in terms])
    plain = sums[:, 0] * 0.2 + 100
    fitted = fit(sums[:60], (plain - 0.3 * saved)[:60], asked[:60])
    assert fitted.refetch == 0.0
    with_caches, without = (
        fitted.network_us(np.array([[1000.0, *term] for term in each])) for each in (terms, [np.zeros(3)] * len(terms))
    )
    np.testing.assert_array_equal(with_caches, without)


# The certificate


def network(truth_ms: float, predicted_ms: float, notation: str = "dense_n2") -> Network:
    return Network(notation, truth_ms * 0.99, truth_ms * 1.01, predicted_ms)


def test_quality_in_figures():
    found = quality([network(1.0, 1.04), network(2.0, 2.18), network(3.0, 3.6), network(4.0, 3.84)])
    assert (found.networks, found.within_5_percent, found.within_10_percent) == (4, 0.5, 0.75)
    assert found.mape == pytest.approx((0.04 + 0.09 + 0.2 + 0.04) / 4)
    assert found.noise_floor == pytest.approx(1.01 / 0.99 - 1)
    assert found.spearman == 1.0
    assert quality([]).networks == 0


def test_a_certificate_knows_its_parts():
    small, large = (str(SPACE.smallest), str(SPACE.largest))
    networks = (network(1.0, 1.0, small), network(1.1, 1.2, small), network(5.0, 6.0, large))
    certificate = Certificate(networks, ())
    assert certificate.near(1.0).networks == 2
    assert certificate.near(6.0).networks == 1
    assert certificate.near(100.0).networks == 0
    assert certificate.without([7]).networks == 2


@pytest.mark.parametrize(
    ("errors", "doubt"),
    [
        ([0.01] * 10, None),
        ([0.01] * 9 + [0.3], None),
        ([0.01] * 8 + [0.3] * 2, "only 80% of its 10 test networks are within 10%"),
        ([0.08] * 10, "its mean error is 8.0%"),
        ([], "only nan"),
    ],
)
def test_a_certificate_that_fails_says_so(errors: list[float], doubt: str | None):
    found = Certificate(tuple(network(1.0, 1.0 + error) for error in errors), ()).doubt
    assert found is None if doubt is None else found is not None and found.startswith(doubt)


def test_a_table_that_fails_its_certificate_backs_nothing(quiet_looking: LatencyTable):
    assert quiet_looking.doubt is None
    bad = tuple(network(1.0, 1.5) for _ in range(10))
    assert quiet_looking.certificate is not None
    failing = dataclasses.replace(quiet_looking, certificate=Certificate(bad, quiet_looking.certificate.intervals))
    assert "fails its own certificate" in (failing.doubt or "")
    assert "no certificate" in (dataclasses.replace(quiet_looking, certificate=None).doubt or "")
    assert dataclasses.replace(quiet_looking, source="imported").doubt == "the table is imported"


@pytest.fixture
def quiet_looking(simulate: Callable[[MobileSpace], LatencyTable]) -> LatencyTable:
    return dataclasses.replace(simulate(SPACE), source="measured")


def test_an_interval_is_of_a_single_time_the_later_one():
    """The first measurement is not what a user will see, nor is the mean of both."""
    later = tuple(Network("dense_n2", 1.5, repeated, 1.0) for repeated in (1.01, 1.02, 1.03, 1.04, 0.9))
    assert Certificate((), later).factor(0.8) == pytest.approx(1 / 0.9)
    assert Certificate((), later).factor(0.6) == pytest.approx(1.04)
    earlier = tuple(Network("dense_n2", measured, 1.0, 1.0) for measured in (1.01, 1.02, 1.03, 1.04, 0.9))
    assert Certificate((), earlier).factor(0.8) == pytest.approx(1.0)


def test_what_a_network_takes_is_the_mean_of_both_measurements():
    found = Network("dense_n2", 1.0, 1.2, 1.1)
    assert (found.truth_ms, found.relative_error) == (pytest.approx(1.1), pytest.approx(0.0))


def test_too_few_networks_for_a_coverage():
    certificate = Certificate((), tuple(Network("dense_n2", 1.0, 1.0, 1.0) for _ in range(4)))
    assert certificate.factor(0.8) == pytest.approx(1.0)
    with pytest.raises(InputError, match="4 networks back a coverage of up to 80%"):
        certificate.factor(0.9)
