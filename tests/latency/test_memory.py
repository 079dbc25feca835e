"""Memory of many networks at once is that of each alone."""

import numpy as np
import pytest

from edgenas.architecture import Architecture
from edgenas.latency.memory import arena_kb, memory_of_codes, model_kb, peak_memory_kb
from edgenas.space import MobileSpace


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(("name", "shape"), [("tiny", (28, 28, 1)), ("standard", (96, 128, 3))])
def test_codes_and_networks_agree(name: str, shape: tuple[int, int, int], precision: str) -> None:
    space = MobileSpace(name, shape, 10)
    codes = space.sample(np.random.default_rng(0), 100)
    networks = space.decode_codes(codes)
    found = memory_of_codes(space, codes, precision)
    np.testing.assert_allclose(found["arena_kb"], arena_kb(networks, precision), rtol=1e-12)
    np.testing.assert_allclose(found["model_kb"], model_kb(networks, precision), rtol=1e-12)
    np.testing.assert_allclose(found["peak_memory_kb"], peak_memory_kb(networks, precision), rtol=1e-12)


def test_arena_by_hand() -> None:
    network = Architecture.parse("input_16x16x1 conv_k3_s1_c3_relu6 head_c4_relu6 dense_n2")
    # While the head's convolution runs: 16 x 16 x 3 read, 16 x 16 x 4 written.
    assert arena_kb([network], "int8").tolist() == [16 * 16 * 7 / 1024]
    assert arena_kb([network], "float32").tolist() == [4 * 16 * 16 * 7 / 1024]


def test_a_wider_network_takes_more() -> None:
    space = MobileSpace("tiny", (28, 28, 1), 10)
    for precision in ("float32", "int8"):
        small, large = peak_memory_kb([space.smallest, space.largest], precision)
        assert 0 < small < large
