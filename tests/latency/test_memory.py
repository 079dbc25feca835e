"""Memory from the architecture: against files and against what the interpreters said, and by hand."""

import sys

import numpy as np
import pytest

import tests.joined  # noqa: F401 - a block with two inputs
from edgenas.architecture import Architecture
from edgenas.architecture.graph import Lifetime
from edgenas.deploy.describing import described
from edgenas.latency import memory
from edgenas.latency.memory import arena_kb, memory_of_codes, model_kb, peak_memory_kb, peak_rss_growth_kb
from edgenas.model import Precision, convert_network
from edgenas.space import MobileSpace

SMALLEST = (
    "input_28x28x1 conv_k3_s2_c8_relu6 mbconv_k3_e1_s1_c8_relu6 mbconv_k3_e1_s2_c8_relu6 mbconv_k3_e1_s2_c16_relu6 "
    "head_c32_relu6 dense_n10"
)
# Three blocks after each other that add their input: their inputs cannot stand side by side.
STACKED = (
    "input_28x28x1 conv_k3_s2_c8_relu6 mbconv_k5_e6_s1_c8_se0.25_relu6 mbconv_k5_e6_s1_c8_se0.25_relu6 "
    "mbconv_k7_e6_s1_c8_se0.25_relu6 mbconv_k5_e3_s2_c16_se0.25_relu6 mbconv_k7_e3_s1_c16_se0.25_relu6 "
    "mbconv_k3_e3_s1_c16_se0.25_relu6 mbconv_k7_e3_s1_c16_se0.25_relu6 mbconv_k7_e1_s2_c32_relu6 "
    "mbconv_k3_e3_s1_c32_relu6 mbconv_k7_e6_s1_c32_relu6 head_c64_relu6 dense_n10"
)
HARDSWISH = (
    "input_28x28x1 conv_k3_s2_c8_hardswish mbconv_k7_e1_s1_c8_se0.25_hardswish mbconv_k7_e6_s2_c16_hardswish "
    "mbconv_k7_e6_s1_c16_hardswish mbconv_k5_e1_s2_c32_se0.25_hardswish mbconv_k5_e3_s1_c32_se0.25_hardswish "
    "head_c64_hardswish dense_n10"
)
LARGE = (
    "input_96x96x3 conv_k5_s4_c16_relu6 mbconv_k5_e1_s2_c16_se0.25_relu6 mbconv_k5_e3_s1_c16_se0.25_relu6 "
    "mbconv_k7_e3_s2_c32_se0.25_relu6 mbconv_k5_e3_s1_c32_se0.25_relu6 mbconv_k3_e6_s2_c64_se0.25_relu6 "
    "mbconv_k5_e3_s1_c64_se0.25_relu6 mbconv_k3_e1_s1_c64_se0.25_relu6 mbconv_k3_e3_s1_c88_se0.25_relu6 "
    "mbconv_k7_e6_s2_c144_se0.25_relu6 mbconv_k7_e1_s1_c144_se0.25_relu6 head_c384_relu6 dense_n10"
)


# What `print_allocations` of tflite-micro 0.dev20261023 said of their trained files, bytes.
@pytest.mark.parametrize(
    ("text", "precision", "total"),
    [
        (SMALLEST, "int8", 9_088), (SMALLEST, "float32", 22_800), (STACKED, "int8", 53_296),
        (STACKED, "float32", 118_688), (HARDSWISH, "int8", 34_944), (HARDSWISH, "float32", 90_960),
        (LARGE, "int8", 118_016), (LARGE, "float32", 209_696),
    ],
)  # fmt: skip
def test_the_arena_is_that_of_tensorflow_lite_micro(text: str, precision: Precision, total: int) -> None:
    assert arena_kb([Architecture.parse(text)], precision)[0] * 1024 == pytest.approx(total, rel=0.005)


def planned(tensors: list[Lifetime]) -> int:
    """Bytes that TensorFlow Lite Micro's `GreedyMemoryPlanner` needs: the large first, each into the first gap."""
    placed: list[tuple[int, Lifetime]] = []
    later_first = list(reversed(tensors))  # among equals
    for tensor in sorted(later_first, key=lambda tensor: -tensor.size):
        start = 0
        for other_start, other in sorted(placed, key=lambda entry: entry[0]):
            if other.first <= tensor.last and tensor.first <= other.last:
                if other_start - start >= tensor.size:
                    break
                start = max(start, other_start + other.size)
        placed.append((start, tensor))
    return max(start + tensor.size for start, tensor in placed)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_activations_are_laid_out_as_the_planner_does(precision: str) -> None:
    space = MobileSpace("tiny", (28, 28, 1), 10)
    networks = space.decode_codes(space.sample(np.random.default_rng(1), 100))
    ratios = []
    for network, arena in zip(networks, arena_kb(networks, precision) * 1024, strict=True):
        records = sum(memory._share(layer, precision).records for layer in network.layers())
        activations = arena - records - memory._MICRO_BYTES[precision]["network"]
        ratios.append(activations / planned(memory._tensors(network, precision)))
    assert min(ratios) > 0.93
    assert max(ratios) == 1
    assert np.mean(np.array(ratios) == 1) > 0.97


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("text", [SMALLEST, STACKED])
def test_the_file_is_as_large_as_predicted(text: str, precision: Precision) -> None:
    network = Architecture.parse(text)
    labels = [f"label {number}" for number in range(10)]
    size_bytes = len(described(convert_network(network, precision), "study", network, precision, labels, "crop"))
    assert model_kb([network], precision)[0] * 1024 == pytest.approx(size_bytes, rel=0.005)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(("name", "shape"), [("tiny", (28, 28, 1)), ("standard", (96, 128, 3))])
def test_codes_and_networks_agree(name: str, shape: tuple[int, int, int], precision: str) -> None:
    space = MobileSpace(name, shape, 10)
    codes = space.sample(np.random.default_rng(0), 200)
    networks = space.decode_codes(codes)
    found = memory_of_codes(space, codes, precision)
    np.testing.assert_array_equal(found["arena_kb"], arena_kb(networks, precision))
    np.testing.assert_array_equal(found["model_kb"], model_kb(networks, precision))
    np.testing.assert_array_equal(found["peak_memory_kb"], peak_memory_kb(networks, precision))


def test_many_codes_cost_no_more_steps_than_few() -> None:
    """All of them go through the same calls: benchmarks/real says how long a hundred thousand take."""
    space = MobileSpace("standard", (96, 96, 3), 10)
    codes = space.sample(np.random.default_rng(0), 3000)
    memory_of_codes(space, codes, "int8")  # finds out about the layers, once

    def calls(count: int) -> int:
        made = 0

        def tell(frame: object, event: str, argument: object) -> None:
            nonlocal made
            made += event == "call"

        before = sys.getprofile()
        sys.setprofile(tell)
        try:
            memory_of_codes(space, codes[:count], "int8")
        finally:
            sys.setprofile(before)
        return made

    assert calls(3000) <= 1.1 * calls(300)


def test_activations_by_hand() -> None:
    # The same operators on images of two sizes: what the interpreter keeps of them is the same.
    text = "input_{0}x{0}x1 conv_k3_s1_c3_relu6 head_c4_relu6 dense_n2"
    small, large = (Architecture.parse(text.format(side)) for side in (16, 32))
    # While the head's convolution runs: side x side x 3 read, side x side x 4 written.
    for precision, size in (("int8", 1), ("float32", 4)):
        arenas = arena_kb([small, large], precision)
        assert arenas[1] - arenas[0] == size * 7 * (32**2 - 16**2) / 1024


def test_an_image_may_be_the_largest_tensor() -> None:
    # An int8 model takes uint8: image and converted image are live together. A float32 model reads the image itself.
    network, wider = (
        Architecture.parse(f"input_96x96x{channels} conv_k5_s4_c8_relu6 head_c8_relu6 dense_n2") for channels in (3, 4)
    )
    for precision, tensors, size in (("int8", 2, 1), ("float32", 1, 4)):
        arenas = arena_kb([network, wider], precision)
        assert arenas[1] - arenas[0] == tensors * size * 96 * 96 / 1024


def test_a_branch_holds_its_tensor() -> None:
    text = "input_32x32x1 conv_k3_s1_c4_relu6 conv_k3_s1_c4_relu6 conv_k3_s1_c4_relu6{} head_c4_relu6 dense_n2"
    chain, skipping = (Architecture.parse(text.format(end)) for end in ("", " joined@1,3"))
    arenas = arena_kb([chain, skipping], "int8")
    assert 32 * 32 * 4 <= (arenas[1] - arenas[0]) * 1024 < 32 * 32 * 4 + 300  # and the addition's records


def test_a_wider_network_takes_more() -> None:
    space = MobileSpace("tiny", (28, 28, 1), 10)
    for precision in ("float32", "int8"):
        for figure in (arena_kb, model_kb, peak_memory_kb, peak_rss_growth_kb):
            small, large = figure([space.smallest, space.largest], precision)
            assert 0 < small < large


def test_a_process_grows_by_what_xnnpack_packs() -> None:
    text = "input_28x28x1 conv_k3_s1_c16_relu6 mbconv_k{}_e6_s1_c16_relu6 head_c32_relu6 dense_n2"
    three, five, seven = (Architecture.parse(text.format(kernel)) for kernel in (3, 5, 7))
    growths = peak_rss_growth_kb([three, five, seven], "int8")
    # 96 channels: XNNPACK has kernels for 9 and 25 taps; 49 are packed in tiles of 128 weights for one.
    assert growths[1] - growths[0] < 30
    assert growths[2] - growths[1] > 96 * 49 * 128 / 1024


def test_what_the_runtime_takes_on_another_device_is_added_as_it_is() -> None:
    network = [Architecture.parse(SMALLEST)]
    (nothing,), (more,) = (peak_rss_growth_kb(network, "int8", runtime_kb) for runtime_kb in (0.0, 1234.5))
    assert more - nothing == pytest.approx(1234.5)
