"""The mobile space: what it holds, its codes, and the moves of a search."""

import functools
import itertools
from collections.abc import Callable

import numpy as np
import optuna
import pytest

from edgenas.architecture import Dense, MBConv
from edgenas.errors import InputError
from edgenas.space import Codes, MobileSpace, mobile

SPACES = [
    ("tiny", (8, 8, 1)),
    ("tiny", (28, 28, 1)),
    ("tiny", (33, 47, 3)),
    ("tiny", (64, 64, 3)),
    ("standard", (96, 96, 3)),
    ("standard", (160, 128, 1)),
    ("standard", (224, 224, 3)),
]
MOST_LAYERS = {"tiny": 1000, "standard": 2000}


@functools.cache
def made(name: str, shape: tuple[int, int, int]) -> MobileSpace:
    return MobileSpace(name, shape, 7)


@pytest.fixture(params=SPACES, ids=lambda space: f"{space[0]}-{'x'.join(map(str, space[1]))}")
def space(request: pytest.FixtureRequest) -> MobileSpace:
    return made(*request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def macs(space: MobileSpace, codes: Codes) -> np.ndarray:
    """[N] of many networks at once."""
    costs = np.array([layer.macs for layer in space.layers()] + [0])
    total: np.ndarray = costs[space.layer_index(codes)].sum(axis=1)
    return total


def test_layers_are_few_enough_to_measure(space: MobileSpace) -> None:
    layers = space.layers()
    assert len(layers) == len(set(layers)) <= MOST_LAYERS[space.name]


def test_macs_reach_far(space: MobileSpace) -> None:
    assert space.largest.macs >= 30 * space.smallest.macs


def test_smallest_and_largest_are_the_ends(space: MobileSpace, rng: np.random.Generator) -> None:
    sampled = macs(space, space.sample(rng, 2000))
    assert space.smallest.macs <= sampled.min()
    assert space.largest.macs >= sampled.max()
    assert space.decode_codes(space.smallest_code[None]) == [space.smallest]


def test_networks_are_of_the_space(space: MobileSpace, rng: np.random.Generator) -> None:
    for network in space.decode_codes(space.sample(rng, 50)):
        assert (network.input_shape, network.classes) == (space.input_shape, 7)
        assert min(network.layers()[-2].input_shapes[0][:2]) >= 1


def test_encode_is_the_inverse_of_decode(space: MobileSpace, rng: np.random.Generator) -> None:
    raw = rng.integers(0, [len(options) for options in space.choices.values()], size=(150, len(space.choices)))
    networks = space.decode_codes(raw)
    np.testing.assert_array_equal(space.encode(networks), space.canonical(raw))
    assert space.decode_codes(space.canonical(raw)) == networks
    assert space.encode([]).shape == (0, len(space.choices))


def test_hidden_codes_do_not_change_the_network(space: MobileSpace, rng: np.random.Generator) -> None:
    codes = space.sample(rng, 60)
    hidden = ~space.visible(codes)
    assert hidden.any()
    noise = rng.integers(0, 3, codes.shape)
    changed = np.where(hidden, noise, codes)
    assert [n.id for n in space.decode_codes(changed)] == [n.id for n in space.decode_codes(codes)]
    np.testing.assert_array_equal(space.layer_index(changed), space.layer_index(codes))
    np.testing.assert_array_equal(space.canonical(changed), codes)


def test_every_visible_code_changes_the_network(space: MobileSpace, rng: np.random.Generator) -> None:
    (code,) = space.sample(rng)
    networks = {n.id for n in space.decode_codes(space.neighbours(code))}
    assert len(networks) == len(space.neighbours(code))
    assert space.decode_codes(code[None])[0].id not in networks


def test_layer_index_agrees_with_the_walk(space: MobileSpace, rng: np.random.Generator) -> None:
    codes = np.concatenate([space.sample(rng, 100), space.smallest_code[None], space.encode([space.largest])])
    layers = space.layers()
    for network, row in zip(space.decode_codes(codes), space.layer_index(codes), strict=True):
        assert tuple(layers[index] for index in row if index < len(layers)) == network.layers()


def test_every_layer_is_used(rng: np.random.Generator) -> None:
    space = made("tiny", (28, 28, 1))
    used = np.unique(space.layer_index(space.sample(rng, 60_000)))
    assert set(used) == set(range(len(space.layers()) + 1))


@pytest.mark.parametrize("name", ["tiny", "standard"])
def test_size_is_the_number_of_networks(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # Fewer options, so that every network can be made.
    monkeypatch.setattr(mobile, "KERNELS", (3, 5) if name == "tiny" else (3,))
    monkeypatch.setattr(mobile, "EXPANSIONS", (3,))
    monkeypatch.setattr(mobile, "DEPTHS", (1, 2))
    monkeypatch.setattr(mobile, "WIDTHS", (0.25, 1.0))
    space = MobileSpace(name, (32, 32, 3) if name == "tiny" else (96, 96, 3), 10)
    rows = np.array(list(itertools.product(*(range(len(options)) for options in space.choices.values()))))
    rows = np.unique(space.canonical(rows), axis=0)
    assert len(rows) == space.size
    assert len(set(map(str, space.decode_codes(rows)))) == space.size


def test_size_by_formula() -> None:
    stage = 2 * (9 + 9**2 + 9**3 + 9**4)
    assert made("tiny", (28, 28, 1)).size == 4 * 2 * stage**3
    assert made("standard", (96, 96, 3)).size == 4 * 2 * stage**5


@pytest.mark.parametrize("rate", [0.005, 0.1, 1.0])
def test_a_mutant_always_differs(space: MobileSpace, rng: np.random.Generator, rate: float) -> None:
    codes = space.sample(rng, 200)
    mutants = space.mutate(codes, rng, rate)
    assert (mutants != codes).any(axis=1).all()
    np.testing.assert_array_equal(mutants, space.canonical(mutants))


def test_mutation_keeps_most_of_a_network(rng: np.random.Generator) -> None:
    space = made("tiny", (28, 28, 1))
    codes = space.sample(rng, 300)
    assert (space.mutate(codes, rng, 0.05) != codes).mean() < 0.1


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.5, float("nan")])
def test_a_rate_that_changes_nothing_is_refused(rng: np.random.Generator, rate: float) -> None:
    space = made("tiny", (28, 28, 1))
    with pytest.raises(InputError, match="rate"):
        space.mutate(space.sample(rng), rng, rate)


def test_a_child_takes_each_choice_from_a_parent(space: MobileSpace, rng: np.random.Generator) -> None:
    first, second = space.sample(rng, 100), space.sample(rng, 100)
    children = space.crossover(first, second, rng)
    shown = space.visible(children)
    assert ((children == first) | (children == second))[shown].all()
    np.testing.assert_array_equal(children, space.canonical(children))
    np.testing.assert_array_equal(space.crossover(first, first, rng), first)


def test_neighbours_are_one_choice_away(space: MobileSpace, rng: np.random.Generator) -> None:
    for code in space.sample(rng, 5):
        rows = space.neighbours(code)
        assert len(np.unique(rows, axis=0)) == len(rows)
        np.testing.assert_array_equal(rows, space.canonical(rows))
        # What a smaller depth hides differs too; what both show differs in one choice.
        both = space.visible(rows) & space.visible(code[None])
        assert (((rows != code) & both).sum(axis=1) == 1).all()


def excess_over(space: MobileSpace, limit: float) -> Callable[[Codes], np.ndarray]:
    return lambda codes: macs(space, codes) / limit - 1


@pytest.mark.parametrize("percentile", [2, 50])
def test_repair_keeps_a_limit(space: MobileSpace, rng: np.random.Generator, percentile: float) -> None:
    codes = space.sample(rng, 80)
    limit = float(np.percentile(macs(space, codes), percentile))
    repaired = space.repair(codes, excess_over(space, limit), rng)
    feasible = macs(space, codes) <= limit
    assert (macs(space, repaired) <= limit).all()
    np.testing.assert_array_equal(repaired[feasible], codes[feasible])
    np.testing.assert_array_equal(repaired, space.canonical(repaired))
    # As few choices as found: far from what the smallest network would be.
    broken = repaired[~feasible]
    assert (broken != space.smallest_code).any(axis=1).mean() > 0.5


def test_repair_leaves_what_it_cannot_repair(rng: np.random.Generator) -> None:
    space = made("tiny", (28, 28, 1))
    codes = space.sample(rng, 10)
    excess = excess_over(space, space.smallest.macs - 1)
    np.testing.assert_array_equal(space.repair(codes, excess, rng), codes)


def test_repair_moves_towards_a_row_that_is_given(rng: np.random.Generator) -> None:
    space = made("tiny", (28, 28, 1))
    target = space.encode([space.largest])[0]

    def excess(codes: Codes) -> np.ndarray:
        return space.largest.macs * 0.5 - macs(space, codes)

    codes = space.sample(rng, 20)
    assert (excess(space.repair(codes, excess, rng, towards=target)) <= 0).all()


def test_optuna_takes_the_distributions(space: MobileSpace) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(3):
        trial = study.ask(space.distributions())
        assert set(trial.params) == set(space.choices)
        codes = space.codes(trial.params)
        assert space.decode(trial.params) == space.decode_codes(codes[None])[0]
        assert space.codes(space.values(codes)).tolist() == codes.tolist()
        study.tell(trial, 0.0)


def test_the_same_seed_draws_the_same() -> None:
    space = made("tiny", (28, 28, 1))
    first, second = (space.sample(np.random.default_rng(3), 20) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_activation_and_classes_are_the_spaces_own() -> None:
    space = MobileSpace("tiny", (28, 28, 1), 3, activation="hardswish")
    moulds = [node.block for node in space.largest.nodes if isinstance(node.block, MBConv)]
    assert {mould.activation for mould in moulds} == {"hardswish"}
    other = space.with_classes(1000)
    assert (other.largest.classes, other.activation) == (1000, "hardswish")
    different = {layer for layer in other.layers() if layer not in space.layers()}
    assert all(isinstance(layer.block, Dense) for layer in different)


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("tny", (28, 28, 1), "There is no space 'tny': use tiny or standard"),
        ("tiny", (96, 96, 3), "8 to 64 px a side, received 96x96: use --space standard"),
        ("tiny", (28, 65, 3), "received 28x65"),
        ("standard", (64, 64, 3), "use --space tiny"),
        ("standard", (512, 512, 3), "96 to 224 px"),
        ("tiny", (28, 28, 0), "1 to 4096"),
    ],
)
def test_an_input_that_does_not_suit(name: str, shape: tuple[int, int, int], text: str) -> None:
    with pytest.raises(InputError, match=text):
        MobileSpace(name, shape, 10)


def test_less_than_two_classes_are_refused() -> None:
    with pytest.raises(InputError, match="at least 2 classes"):
        MobileSpace("tiny", (28, 28, 1), 1)


def test_a_foreign_network_is_named() -> None:
    space = made("tiny", (28, 28, 1))
    foreign = MobileSpace("tiny", (32, 32, 1), 7).largest
    with pytest.raises(InputError, match=f"The network {foreign.id} is not of MobileSpace"):
        space.encode([foreign])


def test_a_setting_with_a_hole_is_named() -> None:
    space = made("tiny", (28, 28, 1))
    values = space.values(space.smallest_code)
    with pytest.raises(InputError, match=r"width: expected one of .*, received 0.3"):
        space.codes(values | {"width": 0.3})
    del values["stage1_depth"]
    with pytest.raises(InputError, match=r"stage1_depth: expected one of .*, received None"):
        space.codes(values)
