"""Graphs of blocks: notation, the walk over shapes, live memory."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.architecture import Architecture, Block, Conv, Dense, Head, Input, Layer, MBConv, Node
from edgenas.errors import InputError
from tests.joined import Joined

activations = st.sampled_from(["relu", "relu6", "hardswish"])
small = st.integers(1, 64)
blocks = st.one_of(
    st.builds(Conv, st.sampled_from([1, 3, 5]), small, small, activations),
    st.builds(
        MBConv,
        kernel=st.sampled_from([3, 5, 7]),
        expansion=small,
        stride=small,
        channels=small,
        se_ratio=st.floats(0, 1),
        activation=activations,
    ),
    st.builds(Head, small, activations),
    st.builds(Dense, st.integers(2, 1000)),
    st.builds(Joined, small),
)
CHAIN = (
    "input_28x28x1 conv_k3_s2_c16_relu6 mbconv_k3_e3_s1_c16_relu6 mbconv_k5_e6_s2_c24_se0.25_relu6 "
    "head_c64_relu6 dense_n10"
)
# Two branches from node 1, joined again by node 4.
BRANCHED = "input_4x4x1 conv_k1_s1_c4_relu6 conv_k1_s1_c2_relu6 conv_k3_s1_c2_relu6@1 joined@2,3 head_c4_relu6 dense_n3"


@st.composite
def graphs(draw: st.DrawFn) -> Architecture:
    """Any graph; its shapes need not agree, for the notation does not look at them."""
    nodes = [Node(Input(draw(st.tuples(small, small, small))))]
    for index, block in enumerate(draw(st.lists(blocks, min_size=1, max_size=12)), start=1):
        nodes.append(Node(block, tuple(draw(st.lists(st.integers(0, index - 1), max_size=3)))))
    return Architecture(tuple(nodes))


@given(graphs())
def test_notation_round_trips(network: Architecture) -> None:
    again = Architecture.parse(str(network))
    assert again == network
    assert again.id == network.id
    assert hash(again) == hash(network)


@given(graphs(), graphs())
def test_two_networks_have_two_names(first: Architecture, second: Architecture) -> None:
    assert (first == second) == (str(first) == str(second)) == (first.id == second.id)


def test_reading_the_node_before_has_one_spelling() -> None:
    plain = Architecture.parse("input_4x4x1 dense_n2")
    named = Architecture((Node(Input((4, 4, 1))), Node(Dense(2), (0,))))
    assert named == plain
    assert named.id == plain.id
    assert len(plain.id) == 12
    assert set(plain.id) <= set("0123456789abcdef")
    with pytest.raises(InputError, match="write 'input_4x4x1 dense_n2'"):
        Architecture.parse("input_4x4x1 dense_n2@0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input_4x4x1 dens_n2", "Unknown kind of block 'dens' .*Did you mean 'dense'"),
        ("input_4x4x1  dense_n2", "Unknown kind of block ''"),
        ("input_4x4x1", "at least one block more"),
        ("dense_n2 dense_n2", "starts with an input block"),
        ("", "Unknown kind"),
        ("input_4x4x1 dense_n2@1", "only earlier nodes can be read"),
        ("input_4x4x1 dense_n2@-1", "expected node numbers after '@', received '-1'"),
        ("input_4x4x1 dense_n2@", "expected node numbers"),
        ("input_4x4x1 dense_n2@0,", "expected node numbers"),
        (f"input_4x4x1 dense_n2@{'9' * 5000}", r"expected node numbers after '@', received '9{299}\.\.\. "),
        (f"input_4x4x1 dense_n{'9' * 5000}", r"Unknown part 'n9{298}\.\.\. "),
        ("input_4x4x1 input_4x4x1 dense_n2", "Node 1 is a second input block"),
        ("input_4x4x1 dense_n2 ", "Unknown kind"),
    ],
)
def test_a_wrong_text_is_named(text: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        Architecture.parse(text)


def test_the_walk_over_a_chain() -> None:
    network = Architecture.parse(CHAIN)
    layers = network.layers()
    assert [layer.output_shape for layer in layers] == [
        (28, 28, 1), (14, 14, 16), (14, 14, 16), (7, 7, 24), (1, 1, 64), (1, 1, 10),
    ]  # fmt: skip
    assert [layer.input_shapes for layer in layers[1:]] == [(layer.output_shape,) for layer in layers[:-1]]
    assert (network.input_shape, network.classes) == ((28, 28, 1), 10)
    assert network.macs == sum(layer.macs for layer in layers)
    assert network.parameters == sum(layer.parameters for layer in layers)
    assert all(Layer.parse(str(layer)) == layer for layer in layers)


def test_a_chain_lives_as_its_worst_layer() -> None:
    network = Architecture.parse(CHAIN)
    assert network.live_elements() == max(layer.live_elements() for layer in network.layers())


def test_live_memory_of_branches_by_hand() -> None:
    network = Architecture.parse(BRANCHED)
    assert network.sources(3) == (1,)
    assert network.sources(4) == (2, 3)
    # 64 numbers out of node 1, 32 each out of nodes 2 and 3: all three live while node 3 runs.
    assert network.live_elements() == 64 + 32 + 32
    # No layer alone shows it.
    assert max(layer.live_elements() for layer in network.layers()) == 96


def test_a_long_skip_is_live_all_the_way() -> None:
    text = "input_8x8x1 conv_k3_s1_c4_relu6 conv_k3_s1_c4_relu6 conv_k3_s1_c4_relu6 conv_k3_s1_c4_relu6{} dense_n2"
    chain = Architecture.parse(text.format(""))
    assert chain.live_elements() == 2 * 256
    skipping = Architecture.parse(text.format(" joined@1,4"))
    assert skipping.live_elements() == 3 * 256


def test_networks_are_values() -> None:
    network = Architecture.parse(BRANCHED)
    assert network.macs > 0
    assert pickle.loads(pickle.dumps(network)) == network
    assert len({network, Architecture.parse(BRANCHED)}) == 1


def test_a_new_kind_is_read_like_any_other() -> None:
    assert "joined" in Block.kinds
    assert Architecture.parse("input_4x4x1 conv_k1_s1_c1_relu joined_t3@0,1 dense_n2").nodes[2].block == Joined(3)
