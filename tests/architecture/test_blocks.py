"""Blocks: their notation, and what their operators cost."""

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenas.architecture import Block, Conv, Dense, Head, Input, Layer, MBConv, parse_block
from edgenas.errors import InputError

counts = st.integers(1, 2000)
kernels = st.sampled_from([1, 3, 5, 7, 9])
activations = st.sampled_from(["relu", "relu6", "hardswish"])
inputs = st.builds(Input, st.tuples(*[st.integers(1, 4096)] * 3))
inner_blocks = st.one_of(
    st.builds(Conv, kernels, counts, counts, activations),
    st.builds(
        MBConv,
        kernel=kernels,
        expansion=counts,
        stride=counts,
        channels=counts,
        se_ratio=st.floats(0, 1),
        activation=activations,
    ),
    st.builds(Head, counts, activations),
    st.builds(Dense, st.integers(2, 5000)),
)
blocks = st.one_of(inputs, inner_blocks)
shapes = st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))


@given(blocks)
def test_notation_round_trips(block: Block) -> None:
    assert parse_block(block.token) == block


@given(blocks, blocks)
def test_different_blocks_have_different_tokens(first: Block, second: Block) -> None:
    assert (first.token == second.token) == (first == second)


@given(inner_blocks, shapes)
def test_layer_round_trips(block: Block, shape: tuple[int, int, int]) -> None:
    layer = Layer(block, (shape,))
    assert Layer.parse(str(layer)) == layer


def test_layer_with_two_inputs_round_trips() -> None:
    layer = Layer(Conv(3, 1, 8, "relu6"), ((4, 4, 8), (5, 6, 7)))
    assert str(layer) == "conv_k3_s1_c8_relu6@4x4x8+5x6x7"
    assert Layer.parse(str(layer)) == layer


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("mbcon_k3_e1_s1_c8_relu6", r"Unknown kind of block 'mbcon' .*Did you mean 'mbconv'"),
        ("", "Unknown kind of block ''"),
        ("Conv_k3_s1_c8_relu6", "Did you mean 'conv'"),
        ("conv_k3_s1_c8_relu7", "Unknown part 'relu7' .* The parts of a conv are: k, s, c, activation"),
        ("conv_k3_s1_q8_relu6", "Unknown part 'q8'"),
        ("conv_k3_k3_s1_c8_relu6", "Unknown part 'k3'"),
        ("conv_k3_s1_relu6", r"lacks its channels \(c\.\.\.\)"),
        ("conv_k3_s1_c8", r"lacks its activation"),
        ("conv_s1_k3_c8_relu6", "not in canonical form; write 'conv_k3_s1_c8_relu6'"),
        ("conv_k03_s1_c8_relu6", "not in canonical form"),
        ("conv_k3_s1_c8_relu6_", "Unknown part ''"),
        ("conv_k4_s1_c8_relu6", "expected an odd kernel"),
        ("conv_k3_s0_c8_relu6", "stride and channels of at least 1"),
        ("conv_k-3_s1_c8_relu6", "Unknown part 'k-3'"),
        ("mbconv_k3_e1_s1_c8_se1.5_relu6", "a squeeze ratio of 0 to 1"),
        ("mbconv_k3_e1_s1_c8_senan_relu6", "Unknown part 'senan'"),
        ("mbconv_k3_e1_s1_c8_se0_relu6", "not in canonical form"),
        ("mbconv_k3_e0_s1_c8_relu6", "no size below 1"),
        ("dense_n1", "at least 2 classes"),
        ("input_28x28", "Unknown part '28x28'"),
        ("input_0x28x1", "a shape of 3 sizes, 1 to 4096"),
    ],
)
def test_a_wrong_token_is_named(token: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        parse_block(token)


@given(st.text(max_size=30))
def test_any_other_text_is_an_input_error(text: str) -> None:
    with contextlib.suppress(InputError):
        assert parse_block(text).token == text


@pytest.mark.parametrize(
    "text", ["", "conv_k3_s1_c8_relu6", "conv_k3_s1_c8_relu6@4x4", "conv_k3_s1_c8_relu6@4x4x0", "dense_n2@1x1x+4",
             f"dense_n2@1x1x{'9' * 5000}", "dense_n2@1x1x1000000", "dense_n2@1x1x\u0663"],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_a_wrong_layer_is_named(text: str) -> None:
    with pytest.raises(InputError, match="is no layer"):
        Layer.parse(text)


def test_a_layer_in_another_spelling_is_refused() -> None:
    with pytest.raises(InputError, match="write 'dense_n2@1x1x4'"):
        Layer.parse("dense_n2@1x01x4")


def test_a_name_taken_twice_is_an_error() -> None:
    with pytest.raises(TypeError, match="'conv' exists already"):
        type("Conv", (Block,), {})


def test_mbconv_by_hand() -> None:
    layer = Layer.parse("mbconv_k5_e6_s2_c24_se0.25_relu6@14x14x8")
    assert [operator.kind for operator in layer.operators] == [
        "conv_2d", "depthwise_conv_2d", "mean", "conv_2d", "conv_2d", "logistic", "mul", "conv_2d",
    ]  # fmt: skip
    # 48 channels inside; the gate squeezes to max(8, 0.25 x 8).
    expansion = 14 * 14 * 8 * 48
    depthwise = 7 * 7 * 25 * 48
    gate = 48 * 8 + 8 * 48
    projection = 7 * 7 * 48 * 24
    assert layer.macs == expansion + depthwise + gate + projection == 191_280
    assert layer.parameters == (8 * 48 + 48) + (25 * 48 + 48) + (48 * 8 + 8) + (8 * 48 + 48) + (48 * 24 + 24) == 3680
    assert layer.output_shape == (7, 7, 24)


def test_mbconv_adds_its_input_where_shapes_allow() -> None:
    block = parse_block("mbconv_k3_e3_s1_c8_relu6")
    assert Layer(block, ((4, 4, 8),)).operators[-1].kind == "add"
    assert Layer(block, ((4, 4, 16),)).operators[-1].kind == "conv_2d"
    assert isinstance(block, MBConv)
    strided = dataclasses.replace(block, stride=2)
    assert Layer(strided, ((4, 4, 8),)).operators[-1].kind == "conv_2d"


def test_expansion_of_one_has_no_expansion() -> None:
    layer = Layer.parse("mbconv_k3_e1_s1_c16_relu6@5x5x8")
    assert [operator.kind for operator in layer.operators] == ["depthwise_conv_2d", "conv_2d"]
    assert layer.macs == 25 * 9 * 8 + 25 * 8 * 16


def test_an_activation_that_is_not_fused_is_an_operator() -> None:
    layer = Layer.parse("conv_k3_s2_c16_hardswish@9x8x3")
    assert [operator.kind for operator in layer.operators] == ["conv_2d", "hardswish"]
    assert layer.output_shape == (5, 4, 16)
    assert layer.macs == 5 * 4 * 9 * 3 * 16


def test_head_and_dense_by_hand() -> None:
    head = Layer.parse("head_c32_relu6@7x7x16")
    assert (head.macs, head.parameters, head.output_shape) == (7 * 7 * 16 * 32, 16 * 32 + 32, (1, 1, 32))
    dense = Layer.parse("dense_n10@1x1x32")
    assert (dense.macs, dense.parameters, dense.output_shape) == (320, 330, (1, 1, 10))


def test_live_memory_of_a_residual_block_by_hand() -> None:
    # The input (128) stays until the addition: input + expansion + depthwise is the worst moment.
    assert Layer.parse("mbconv_k3_e3_s1_c8_relu6@4x4x8").live_elements() == 128 + 384 + 384
    # Without the addition the input is gone by then.
    assert Layer.parse("mbconv_k3_e3_s1_c16_relu6@4x4x8").live_elements() == 384 + 384
    # A gate needs the depthwise output until it is multiplied.
    gated = Layer.parse("mbconv_k3_e1_s1_c4_se0.25_relu6@4x4x8")
    assert gated.live_elements() == 128 + 8 + 128


def test_one_input_is_expected() -> None:
    with pytest.raises(InputError, match="Expected one input, received 2"):
        Conv(3, 1, 8, "relu6").output_shape(((4, 4, 1), (4, 4, 1)))
