"""Two tables side by side, and a device's character: made-up tables in which it is known what must be found."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgenas.architecture import Layer
from edgenas.architecture.blocks import Activation, MBConv
from edgenas.errors import InputError
from edgenas.latency.comparing.character import character
from edgenas.latency.comparing.comparing import Difference, compare
from edgenas.latency.comparing.findings import sentences, times
from edgenas.latency.comparing.naming import label, name_tables
from edgenas.latency.comparing.related import related_sentences
from edgenas.latency.table import Entry, LatencyTable
from edgenas.report.tables import draw_character, draw_difference
from edgenas.space import MobileSpace
from tests.latency.conftest import IDENTITY

Cost = Callable[[Layer], float]
SPACE = MobileSpace("tiny", (28, 28, 1), 10)


def plain(layer: Layer) -> float:
    """A cost that knows nothing of kernels, in microseconds."""
    macs = layer.macs
    if isinstance(layer.block, MBConv):
        macs = Layer(dataclasses.replace(layer.block, kernel=3), layer.input_shapes).macs
    return 2 + macs / 1000


def by_kernel(**factors: float) -> Cost:
    """`plain`, times a factor by kernel: k7=20.0."""

    def cost(layer: Layer) -> float:
        kernel = f"k{layer.block.kernel}" if isinstance(layer.block, MBConv) else ""
        return plain(layer) * factors.get(kernel, 1.0)

    return cost


@functools.cache
def all_layers(activation: Activation) -> tuple[Layer, ...]:
    return MobileSpace("tiny", (28, 28, 1), 10, activation).layers()


def simulated(
    cost: Cost = plain, activation: Activation = "relu6", layers: Iterable[Layer] = (), **identity: object
) -> LatencyTable:
    """A made-up table: `cost` gives the microseconds of a layer."""
    layers = tuple(layers) or all_layers(activation)
    return LatencyTable(
        identity=dataclasses.replace(IDENTITY, **identity),  # type: ignore[arg-type]
        source="simulated",
        reference=("", 0.0),
        empty_us=1.0,
        entries={layer: Entry(cost(layer), 0.01, 100.0) for layer in layers},
    )


def flips(found: Difference) -> list[tuple[str, str, str | None]]:
    return [(c.first.first, c.first.second, c.flip) for c in found.contrasts if c.flip and c.first.adjacent]


# Character


def test_a_choice_costs_what_it_was_given() -> None:
    found = {(e.choice, e.first, e.second): e for e in character(simulated(by_kernel(k5=1.5, k7=20.0))).effects}
    k7 = found["kernel", "k5", "k7"]
    assert (k7.cost.low, k7.cost.median, k7.cost.high) == pytest.approx((40 / 3, 40 / 3, 40 / 3))
    assert k7.cost.cases == 180
    assert k7.adjacent
    assert 1.2 < k7.macs < 1.5  # multiply-accumulates tell nothing of it
    assert found["kernel", "k3", "k7"].cost.median == pytest.approx(20)
    assert not found["kernel", "k3", "k7"].adjacent
    assert found["expansion", "e3", "e6"].cost.median < 2
    # A gate's multiply-accumulates are few, and here nothing else counts.
    assert found["squeeze-and-excitation", "se0", "se0.25"].cost.median == pytest.approx(1, abs=0.05)
    assert found["stride", "s1", "s2"].cost.median < 1
    assert ("channels", "c", "2c") in found
    assert not any(choice == "activation" for choice, _, _ in found)


def test_to_double_the_channels_is_to_double_those_of_the_input_too() -> None:
    def squared(layer: Layer) -> float:
        return 5.0 * layer.input_shapes[0][2] * layer.output_shape[2]

    (found,) = (effect for effect in character(simulated(squared)).effects if effect.choice == "channels")
    assert (found.cost.low, found.cost.high) == pytest.approx((4, 4))
    assert 3 < found.macs < 4


def test_an_activation_is_a_choice_where_a_table_holds_two() -> None:
    layers = [*all_layers("relu6"), *all_layers("hardswish")]
    table = simulated(
        lambda layer: plain(layer) * (9 if "hardswish" in str(layer) else 1), layers=dict.fromkeys(layers)
    )
    (found,) = (effect for effect in character(table).effects if effect.choice == "activation")
    assert (found.first, found.second, found.macs) == ("hardswish", "relu6", 1)
    assert found.cost.median == pytest.approx(1 / 9)


def test_what_costs_less_than_the_empty_model_is_left_out() -> None:
    cheap = [layer for layer in SPACE.layers() if plain(layer) < 10]
    table = dataclasses.replace(simulated(), empty_us=10.0)
    assert character(table).unresolved == len(cheap)
    found = compare(table, simulated(firmware="2"))
    assert found.unresolved == len(cheap)
    assert not set(cheap) & set(found.costs)


# Two tables


@pytest.mark.parametrize("cost", [plain, by_kernel(k5=0.6, k7=20.0)])
def test_a_table_beside_itself_shows_nothing(cost: Cost) -> None:
    found = compare(simulated(cost), simulated(cost))
    assert sentences(found) == ()
    assert flips(found) == []
    assert found.moved == ()
    assert found.naming.differs == ()
    assert found.spearman == pytest.approx(1)
    assert (found.shift.mean, found.shift.slower, found.shift.faster) == (1, 0, 0)


def test_noise_shows_nothing() -> None:
    rng = np.random.default_rng(0)
    found = compare(simulated(), simulated(lambda layer: plain(layer) * rng.lognormal(0, 0.02), firmware="2"))
    assert sentences(found) == ()
    assert flips(found) == []


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.2, 30))
def test_the_second_beside_the_first_is_the_mirror_image(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    layers = [layer for layer in SPACE.layers() if layer.input_shapes[0][0] == 14]
    first = simulated(lambda layer: plain(layer) * rng.lognormal(0, 0.3), layers=layers)
    second = simulated(
        lambda layer: by_kernel(k7=factor)(layer) * rng.lognormal(0, 0.3), layers=layers, precision="float32"
    )
    there, back = compare(first, second), compare(second, first)
    assert sentences(back) == sentences(there)
    assert back.shift.mean == pytest.approx(1 / there.shift.mean)
    assert back.shift.ratio.low == pytest.approx(1 / there.shift.ratio.high)
    assert (back.shift.slower, back.shift.faster) == (there.shift.faster, there.shift.slower)
    assert back.spearman == pytest.approx(there.spearman)
    assert flips(back) == flips(there)
    for one, other in zip(there.contrasts, back.contrasts, strict=True):
        assert (other.first, other.second) == (one.second, one.first)
        assert other.change.median == pytest.approx(1 / one.change.median)
    assert [m.layer for m in back.moved] == [m.layer for m in there.moved]
    assert [(m.second_rank, m.first_us) for m in back.moved] == [(m.first_rank, m.second_us) for m in there.moved]


def test_a_kernel_that_leaves_the_fast_ones_flips_and_nothing_else_does() -> None:
    first = simulated(by_kernel(k5=1.5, k7=18.0))
    second = simulated(by_kernel(k5=1.5, k7=3.0), runtime="tflite-runtime", runtime_version="2.14.0")
    found = compare(first, second)
    assert flips(found) == [("k5", "k7", "size")]
    flip = next(contrast for contrast in found.contrasts if contrast.flip and contrast.first.adjacent)
    assert flip.change.median == pytest.approx(1 / 6)
    said = next(sentence for sentence in sentences(found) if sentence.startswith("Kernel: "))
    assert said.startswith(
        "Kernel: k7 costs 12.0x what k5 costs on ai-edge-litert 2.3.0, 2.00x on tflite-runtime 2.14.0 (by MACs"
    )
    assert said.endswith("; 180 pairs).")
    assert str(found.moved[0].layer).startswith("mbconv_k7")


@pytest.mark.parametrize(("factor", "expected"), [(1.9, []), (2.1, [("k5", "k7", "size")])])
def test_a_step_flips_from_twice_the_ratio_on(factor: float, expected: list[tuple[str, str, str]]) -> None:
    assert flips(compare(simulated(), simulated(by_kernel(k7=factor), firmware="2"))) == expected


def test_two_kernels_change_places() -> None:
    found = compare(simulated(by_kernel(k5=1.2)), simulated(by_kernel(k5=0.9), device="pi", fingerprint="p"))
    assert ("k3", "k5", "order") in flips(found)
    said = next(sentence for sentence in sentences(found) if "less on pi" in sentence)
    assert said.startswith("Kernel: k5 costs more than k3 on board (1.20x), less on pi (0.90x) (by MACs ")
    # Too near to equal to say which is the dearer one.
    near = compare(simulated(by_kernel(k5=1.03)), simulated(by_kernel(k5=0.97), firmware="2"))
    assert flips(near) == []


def test_a_precision_that_is_slower_throughout() -> None:
    old = {"runtime": "tflite-runtime", "runtime_version": "2.14.0"}
    found = compare(simulated(lambda layer: plain(layer) * 20, **old), simulated(precision="float32", **old))
    said = sentences(found)
    assert said == (
        "int8 is slower than float32 (board, tflite-runtime 2.14.0, 1 thread, relu6, simulated): 100% of "
        f"{len(found.costs)} layers, 20.0x at the median (quartiles 20.0x to 20.0x).",
    )
    assert found.shift.mean == pytest.approx(1 / 20)


def test_the_exception_is_named() -> None:
    quick = simulated(lambda layer: by_kernel(k7=20.0)(layer) * (0.75 if "_k7_" in str(layer) else 0.5))
    found = compare(simulated(by_kernel(k7=10.0), precision="float32"), quick)
    said = sentences(found)
    assert said[0].startswith("Neither is slower throughout (")
    assert said[1].startswith("Blocks with k7: int8 is slower than float32 on 100% of 180 layers, 1.50x at the median")
    assert any(sentence.startswith("Blocks with k3: float32 is slower than int8 on 100%") for sentence in said)
    few = [layer for layer in quick.entries if "_k7_" not in str(layer) or layer.input_shapes[0][0] == 28]
    rarer = compare(simulated(by_kernel(k7=10.0), layers=few, precision="float32"), dataclasses.replace(quick))
    said = sentences(rarer)
    assert said[0].startswith("float32 is slower than int8 (")
    assert said[1].startswith("Blocks with k7 are the other way round: int8 is slower than float32 on 100% of")


def test_an_activation_that_is_no_layer_in_common() -> None:
    relu6 = simulated()
    swish = simulated(lambda layer: plain(layer) * (9 if "hardswish" in str(layer) else 1), "hardswish")
    found = compare(relu6, swish)
    assert len(found.costs) == len(relu6.entries)
    assert found.naming.differs == (("activation", "relu6", "hardswish"),)
    assert sentences(found)[0].startswith(
        "hardswish is slower than relu6 (board, ai-edge-litert 2.3.0, int8, 1 thread, simulated): 9"
    )
    assert "9.00x at the median" in sentences(found)[0]
    # Where both hold the same layers, none is taken for another.
    both = dataclasses.replace(relu6, entries=relu6.entries | swish.entries)
    assert compare(both, relu6).shift.mean == 1


def test_layers_that_only_one_table_holds() -> None:
    layers = SPACE.layers()
    found = compare(simulated(layers=layers[:300]), simulated(layers=layers[100:350]))
    assert (len(found.costs), found.only_first, found.only_second) == (200, layers[:100], layers[300:350])


def test_tables_without_a_layer_in_common_are_refused() -> None:
    other = simulated(layers=MobileSpace("tiny", (32, 32, 1), 10).layers()[:1])
    with pytest.raises(InputError, match=r"no layer in common.*--space and --input"):
        compare(simulated(), other)


def test_ranks_are_those_of_the_cost() -> None:
    layers = SPACE.layers()[:5]
    costs = dict(zip(layers, (10.0, 20.0, 30.0, 40.0, 50.0), strict=True))
    swapped = costs | {layers[0]: 60.0}
    found = compare(simulated(costs.__getitem__, layers=layers), simulated(swapped.__getitem__, layers=layers))
    first = found.moved[0]
    assert (first.layer, first.first_rank, first.second_rank, first.second_us) == (layers[0], 1, 5, 60.0)
    assert {(m.first_rank, m.second_rank) for m in found.moved[1:]} == {(2, 1), (3, 2), (4, 3), (5, 4)}
    assert found.spearman < 0.9
    assert "moves furthest: of 5 layers it is number 1 by cost" in sentences(found)[-1]


# Names


def test_tables_are_called_by_what_tells_them_apart() -> None:
    table = simulated()
    names = {
        "precision": ("int8", "float32", "with"),
        "threads": ("1 thread", "2 threads", "with"),
        "firmware": ("firmware unknown", "firmware 1.2", "with"),
    }
    for (field, expected), value in zip(names.items(), ("float32", 2, "1.2"), strict=True):
        naming = name_tables(table, simulated(**{field: value}))
        assert (naming.first, naming.second, naming.place) == expected
        assert [name for name, _, _ in naming.differs] == [field]
    naming = name_tables(table, table)
    assert (naming.first, naming.second) == ("the first table", "the second table")
    assert label(table) == "board, ai-edge-litert 2.3.0, int8, 1 thread, relu6, simulated"
    imported = dataclasses.replace(table, source="imported")
    measured = dataclasses.replace(table, source="measured")
    naming = name_tables(measured, imported)
    assert (naming.first, naming.second) == ("measured", "imported")
    assert name_tables(measured, measured).shared == "board, ai-edge-litert 2.3.0, int8, 1 thread, relu6"


def test_one_machine_under_two_names_is_not_called_two_devices() -> None:
    old = {"device": "old", "runtime": "tflite-runtime", "runtime_version": "2.14.0"}
    naming = name_tables(simulated(), simulated(**old))
    assert (naming.first, naming.second, naming.place) == ("ai-edge-litert 2.3.0", "tflite-runtime 2.14.0", "on")
    assert ("device", "board", "old") in naming.differs
    naming = name_tables(simulated(), simulated(**old, fingerprint="another"))
    assert naming.second == "old, tflite-runtime 2.14.0"
    assert name_tables(simulated(), simulated(device="twin")).second == "twin"


def test_a_table_that_does_not_say_what_it_was_made_with() -> None:
    naming = name_tables(simulated(), simulated(runtime="", runtime_version=""))
    assert (naming.first, naming.second) == ("ai-edge-litert 2.3.0", "no runtime")


@pytest.mark.parametrize(
    ("ratio", "text"), [(0.256, "0.26x"), (1.0, "1.00x"), (9.996, "10.0x"), (99.96, "100x"), (31.25, "31.2x")]
)
def test_ratios_have_three_digits(ratio: float, text: str) -> None:
    assert times(ratio) == text


# Pictures


def drawn(path: Path, least_height: int) -> None:
    """A PNG about 1000 pixels wide, with something on it."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert 1000 <= image.width <= 1100
        assert least_height <= image.height <= 1400
        pixels = np.asarray(image.convert("L"))
    assert 0.01 < (pixels < 200).mean() < 0.5


def test_pictures(tmp_path: Path) -> None:
    first, second = simulated(by_kernel(k7=12.0)), simulated(by_kernel(k7=2.0), runtime="tflite-runtime")
    draw_character(first, tmp_path / "new" / "character.png")
    drawn(tmp_path / "new" / "character.png", 700)
    draw_difference(compare(first, second), tmp_path / "difference.png")
    drawn(tmp_path / "difference.png", 900)


def test_pictures_of_tables_that_hold_little(tmp_path: Path) -> None:
    few = [layer for layer in SPACE.layers() if not isinstance(layer.block, MBConv)]
    table = simulated(layers=few)
    assert math.isnan(compare(simulated(layers=few[:1]), table).spearman)
    assert character(table).effects == ()
    draw_character(table, tmp_path / "character.png")
    draw_difference(compare(table, simulated(layers=few[:1])), tmp_path / "difference.png")
    drawn(tmp_path / "difference.png", 500)


# What other tables add


def test_related_tables_tell_which_precision_is_quicker_on_each_runtime() -> None:
    """Two runtimes are compared; tables of the other precision and of another activation are there too."""
    made = {
        f"{runtime} {precision}": simulated(
            lambda layer, scale=scale: scale * plain(layer), runtime=runtime, runtime_version="1", precision=precision
        )
        for runtime, precision, scale in (
            ("quick", "float32", 1.0), ("quick", "int8", 0.5), ("slow", "float32", 1.0), ("slow", "int8", 20.0)
        )
    }  # fmt: skip
    said = related_sentences(made["quick int8"], made["slow int8"], made.values())
    assert len(said) == 2
    assert said[0].startswith("int8 is slower than float32 (") and "slow 1" in said[0] and "20.0x" in said[0]
    assert said[1].startswith("float32 is slower than int8 (") and "quick 1" in said[1] and "2.00x" in said[1]
    assert related_sentences(made["quick int8"], made["slow int8"], [made["quick int8"], made["slow int8"]]) == ()
