"""The kinds of block. A new kind is one dataclass here and one Keras builder in `model`.

A block states the operators that run on the device once batch normalisation is folded and activations are fused;
shapes, MACs, parameters and live memory all follow from that one list.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from edgenas.errors import InputError, near, shown

Shape = tuple[int, int, int]  # height, width, channels
Activation = Literal["relu", "relu6", "hardswish"]
FUSED_ACTIVATIONS = ("relu", "relu6")  # TFLite runs these inside the operator before them


@dataclass(frozen=True)
class Operator:
    """One TFLite operator of a block.

    Attributes:
        kind: TFLite's name for it, lower case: "conv_2d", "depthwise_conv_2d", "fully_connected", "mean", ...
        reads: tensors read: 0..k-1 are the block's k inputs, k+i is what its i-th operator wrote.
        shape: [height, width, channels] written.
        macs: multiply-accumulates.
        weights: numbers in its kernel; each output channel has a bias besides where `biases` is not 0.
        biases: numbers in its bias.
    """

    kind: str
    reads: tuple[int, ...]
    shape: Shape
    macs: int = 0
    weights: int = 0
    biases: int = 0


def _part(prefix: str, **more: Any) -> Any:
    """A field whose token in the notation starts with `prefix`."""
    return field(metadata={"prefix": prefix}, **more)


@dataclass(frozen=True)
class Block(ABC):
    """A kind of block. Fields are its notation, in their order: `mbconv_k5_e6_s2_c24_se0.25_relu6`."""

    kinds: ClassVar[dict[str, type["Block"]]] = {}

    def __init_subclass__(cls) -> None:
        name = cls.__name__.lower()
        if name in Block.kinds:
            raise TypeError(f"A block named {name!r} exists already.")
        Block.kinds[name] = cls

    @abstractmethod
    def operators(self, inputs: tuple[Shape, ...]) -> tuple[Operator, ...]:
        """The operators that run, in order, for inputs of these shapes; the last one writes the block's output."""

    @property
    def token(self) -> str:
        """The block in the text notation; `parse_block` is the inverse."""
        parts = [type(self).__name__.lower()]
        for part in dataclasses.fields(self):
            value = getattr(self, part.name)
            if value != part.default or part.default is dataclasses.MISSING:
                parts.append(part.metadata["prefix"] + _text(value))
        return "_".join(parts)

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        """[height, width, channels] of the output."""
        return self.operators(inputs)[-1].shape

    def _check_activation(self, activation: str) -> None:
        self._require(activation in get_args(Activation), f"an activation of {get_args(Activation)}")

    def _require(self, condition: bool, expected: str) -> None:
        if not condition:
            raise InputError(f"{type(self).__name__}: expected {expected}. Received: {self!r}")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    # A float's own text gives that float again; only a whole number is written shorter.
    return str(value).removesuffix(".0")


def parse_block(token: str) -> Block:
    """The block that a token of the notation names.

    Raises:
        InputError: an unknown kind, an unknown, doubled or missing part, or a value out of range.
    """
    kind, *parts = token.split("_")
    if kind not in Block.kinds:
        raise InputError(f"Unknown kind of block {shown(kind)} in {shown(token)}. {near(kind, Block.kinds)}")
    cls = Block.kinds[kind]
    values: dict[str, Any] = {}
    for text in parts:
        for part in dataclasses.fields(cls):
            value = _read_part(part, text)
            if value is not None and part.name not in values:
                values[part.name] = value
                break
        else:
            known = [f.metadata["prefix"] or f.name for f in dataclasses.fields(cls)]
            raise InputError(
                f"Unknown part {shown(text)} in {shown(token)}. The parts of a {kind} are: {', '.join(known)}."
            )
    for part in dataclasses.fields(cls):
        if part.name not in values and part.default is dataclasses.MISSING:
            raise InputError(f"{shown(token)} lacks its {part.name} ({part.metadata['prefix'] or part.name}...).")
    block = cls(**values)
    if block.token != token:
        raise InputError(f"{shown(token)} is not in canonical form; write {block.token!r}.")
    return block


def _read_part(part: "dataclasses.Field[Any]", text: str) -> Any:
    """The value of a part, or None where `text` is no such part."""
    prefix = part.metadata["prefix"]
    if prefix == "":
        if part.type is Activation:
            return text if text in get_args(Activation) else None
        sizes = text.split("x")
        return tuple(map(int, sizes)) if len(sizes) == 3 and all(is_count(size) for size in sizes) else None
    if not text.startswith(prefix):
        return None
    rest = text[len(prefix) :]
    if is_count(rest):
        return float(rest) if part.type is float else int(rest)
    if part.type is float:
        try:
            value = float(rest)
        except ValueError:
            return None
        return value if math.isfinite(value) else None
    return None


def is_count(text: str) -> bool:
    """Whether `text` is a number of the notation: digits, of less than a million."""
    return text.isascii() and text.isdigit() and len(text) < 7


def _strided(size: int, stride: int) -> int:
    """Side of the output of a convolution with "same" padding."""
    return -(-size // stride)


def _act(operators: list[Operator], activation: Activation) -> None:
    """An activation that TFLite does not fuse is an operator of its own."""
    if activation not in FUSED_ACTIVATIONS:
        operators.append(Operator(activation, (len(operators),), operators[-1].shape))


@dataclass(frozen=True)
class Input(Block):
    """Raw pixels, 0-255, scaled to 0-1 inside the graph: every deployed model takes what a camera gives."""

    shape: Shape = _part("")

    def __post_init__(self) -> None:
        self._require(
            len(self.shape) == 3 and all(1 <= side <= 4096 for side in self.shape),
            "a shape of 3 sizes, 1 to 4096",
        )

    def operators(self, inputs: tuple[Shape, ...]) -> tuple[Operator, ...]:
        """One multiplication (reads the raw image as its input 0)."""
        return (Operator("mul", (0,), self.shape),)


@dataclass(frozen=True)
class Conv(Block):
    """A convolution with "same" padding, batch normalisation and an activation."""

    kernel: int = _part("k")
    stride: int = _part("s")
    channels: int = _part("c")
    activation: Activation = _part("")

    def __post_init__(self) -> None:
        self._require(self.kernel % 2 == 1 and self.kernel > 0, "an odd kernel")
        self._require(min(self.stride, self.channels) >= 1, "stride and channels of at least 1")
        self._check_activation(self.activation)

    def operators(self, inputs: tuple[Shape, ...]) -> tuple[Operator, ...]:
        """conv_2d, and the activation where it is not fused."""
        height, width, channels = _only(inputs)
        shape = (_strided(height, self.stride), _strided(width, self.stride), self.channels)
        weights = self.kernel**2 * channels * self.channels
        operators = [Operator("conv_2d", (0,), shape, shape[0] * shape[1] * weights, weights, self.channels)]
        _act(operators, self.activation)
        return tuple(operators)


@dataclass(frozen=True, kw_only=True)
class MBConv(Block):
    """Mobile inverted bottleneck (Sandler et al., MobileNetV2, CVPR 2018), with squeeze-and-excitation where asked.

    1x1 expansion, depthwise kernel x kernel, [gate], linear 1x1 projection; the input is added where shapes allow.
    The gate squeezes to `se_ratio` of the block's INPUT channels (as EfficientNet, Tan and Le, ICML 2019).
    """

    kernel: int = _part("k")
    expansion: int = _part("e")
    stride: int = _part("s")
    channels: int = _part("c")
    se_ratio: float = _part("se", default=0.0)
    activation: Activation = _part("")

    def __post_init__(self) -> None:
        self._require(self.kernel % 2 == 1 and self.kernel > 0, "an odd kernel")
        self._require(min(self.expansion, self.stride, self.channels) >= 1, "no size below 1")
        self._require(0 <= self.se_ratio <= 1, "a squeeze ratio of 0 to 1")
        self._check_activation(self.activation)

    def squeezed(self, channels: int) -> int:
        """Channels inside the gate, for an input of so many."""
        return max(8, round(channels * self.se_ratio))

    def adds(self, inputs: tuple[Shape, ...]) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and _only(inputs)[2] == self.channels

    def operators(self, inputs: tuple[Shape, ...]) -> tuple[Operator, ...]:
        """Expansion, depthwise, gate, projection, addition: each where the block has it."""
        height, width, channels = _only(inputs)
        wide = channels * self.expansion
        out_height, out_width = _strided(height, self.stride), _strided(width, self.stride)
        operators: list[Operator] = []
        if self.expansion > 1:
            weights = channels * wide
            operators.append(Operator("conv_2d", (0,), (height, width, wide), height * width * weights, weights, wide))
            _act(operators, self.activation)
        weights = self.kernel**2 * wide
        shape = (out_height, out_width, wide)
        macs = out_height * out_width * weights
        operators.append(Operator("depthwise_conv_2d", (len(operators),), shape, macs, weights, wide))
        _act(operators, self.activation)
        if self.se_ratio > 0:
            source, squeezed = len(operators), self.squeezed(channels)
            weights = wide * squeezed
            operators += [
                Operator("mean", (source,), (1, 1, wide)),
                Operator("conv_2d", (source + 1,), (1, 1, squeezed), weights, weights, squeezed),
                Operator("conv_2d", (source + 2,), (1, 1, wide), weights, weights, wide),
                Operator("logistic", (source + 3,), (1, 1, wide)),
                Operator("mul", (source, source + 4), shape),
            ]
        weights = wide * self.channels
        shape = (out_height, out_width, self.channels)
        macs = out_height * out_width * weights
        operators.append(Operator("conv_2d", (len(operators),), shape, macs, weights, self.channels))
        if self.adds(inputs):
            operators.append(Operator("add", (0, len(operators)), shape))
        return tuple(operators)


@dataclass(frozen=True)
class Head(Block):
    """1x1 convolution to `channels` features, batch normalisation, an activation, global average pooling."""

    channels: int = _part("c")
    activation: Activation = _part("")

    def __post_init__(self) -> None:
        self._require(self.channels >= 1, "channels of at least 1")
        self._check_activation(self.activation)

    def operators(self, inputs: tuple[Shape, ...]) -> tuple[Operator, ...]:
        """conv_2d, mean."""
        height, width, channels = _only(inputs)
        weights = channels * self.channels
        shape = (height, width, self.channels)
        operators = [Operator("conv_2d", (0,), shape, height * width * weights, weights, self.channels)]
        _act(operators, self.activation)
        operators.append(Operator("mean", (len(operators),), (1, 1, self.channels)))
        return tuple(operators)


@dataclass(frozen=True)
class Dense(Block):
    """A dense layer that gives one logit a class."""

    classes: int = _part("n")

    def __post_init__(self) -> None:
        self._require(self.classes >= 2, "at least 2 classes")

    def operators(self, inputs: tuple[Shape, ...]) -> tuple[Operator, ...]:
        """fully_connected."""
        height, width, channels = _only(inputs)
        weights = height * width * channels * self.classes
        return (Operator("fully_connected", (0,), (1, 1, self.classes), weights, weights, self.classes),)


def _only(inputs: tuple[Shape, ...]) -> Shape:
    if len(inputs) != 1:
        raise InputError(f"Expected one input, received {len(inputs)}: {inputs}.")
    return inputs[0]
