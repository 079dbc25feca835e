"""The space of mobile inverted-bottleneck networks.

A setting gives every choice a value. As numbers it is a row of codes: for each choice the index of its value. Depth
masks the choices of the blocks that it hides; a row whose masked codes are 0 is canonical, and two settings that
decode to the same network have the same canonical row.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from edgenas.architecture import Architecture, Block, Conv, Dense, Head, Input, Layer, MBConv, Shape
from edgenas.architecture.blocks import Activation
from edgenas.errors import InputError
from edgenas.space.layer_index import Codes, LayerIndex

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SizeName = Literal["tiny", "standard"]
KERNELS = (3, 5, 7)
EXPANSIONS = (1, 3, 6)
SE_RATIOS = (0.0, 0.25)
DEPTHS = (1, 2, 3, 4)
WIDTHS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class _Plan:
    """What a size of space fixes; channels are those at width 1."""

    sides: tuple[int, int]  # smallest and largest side of the input, pixels
    stem_strides: tuple[int, ...]
    stem_channels: int
    stages: tuple[tuple[int, int], ...]  # (channels, stride of the first block)
    features: int


_PLANS: dict[SizeName, _Plan] = {
    "tiny": _Plan((8, 64), (1, 2), 16, ((16, 1), (32, 2), (64, 2)), 128),
    "standard": _Plan((96, 224), (2, 4), 24, ((24, 2), (40, 2), (80, 2), (112, 1), (192, 2)), 512),
}


def _scaled(channels: int, width: float) -> int:
    """Channels at a width: a multiple of 8, which the kernels of every runtime like, and never below 8."""
    return max(8, int(channels * width + 4) // 8 * 8)


class MobileSpace:
    """All networks of one size at one input shape.

    Args:
        size_name: "tiny" (sides of 8 to 64 px) or "standard" (96 to 224 px).
        input_shape: [height, width, channels] of the raw image.
        classes: logits.
        activation: of every block; the space's, not a choice.

    Raises:
        InputError: the input does not suit the size.
    """

    def __init__(
        self, size_name: str, input_shape: Sequence[int], classes: int, activation: Activation = "relu6"
    ) -> None:
        if size_name not in _PLANS:
            raise InputError(f"There is no space {size_name!r}: use tiny or standard.")
        plan = _PLANS[size_name]
        height, width, channels = input_shape
        low, high = plan.sides
        if not (low <= min(height, width) and max(height, width) <= high):
            other = "standard" if size_name == "tiny" else "tiny"
            raise InputError(
                f"The space {size_name!r} is for inputs of {low} to {high} px a side, received "
                f"{height}x{width}: use --space {other} or another --input."
            )
        self.name = size_name
        self.input_shape: Shape = (int(height), int(width), int(channels))
        self.classes = int(classes)
        self.activation: Activation = activation
        self._plan = plan
        self.choices: dict[str, tuple[Any, ...]] = {"width": WIDTHS, "stem_stride": plan.stem_strides}
        for stage in range(1, len(plan.stages) + 1):
            self.choices[f"stage{stage}_depth"] = DEPTHS
            self.choices[f"stage{stage}_se"] = SE_RATIOS
            for block in range(1, max(DEPTHS) + 1):
                self.choices[f"stage{stage}_block{block}_kernel"] = KERNELS
                self.choices[f"stage{stage}_block{block}_expansion"] = EXPANSIONS
        self._names = tuple(self.choices)
        self._position = {name: index for index, name in enumerate(self._names)}
        self._counts = np.array([len(values) for values in self.choices.values()])
        _ = self.smallest  # its blocks refuse a shape, an activation or a number of classes that cannot be

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.input_shape))
        return f"MobileSpace({self.name!r}, {shape}, classes={self.classes}, activation={self.activation!r})"

    def with_classes(self, classes: int) -> "MobileSpace":
        """The same space for another number of classes."""
        return MobileSpace(self.name, self.input_shape, classes, self.activation)

    # What it holds

    @property
    def size(self) -> int:
        """How many different networks it holds."""
        kinds = len(KERNELS) * len(EXPANSIONS)
        stage = len(SE_RATIOS) * sum(kinds**depth for depth in DEPTHS)
        return len(WIDTHS) * len(self._plan.stem_strides) * int(stage ** len(self._plan.stages))

    @property
    def smallest(self) -> Architecture:
        """The network with the fewest MACs."""
        return self.decode(self.values(self.smallest_code))

    @property
    def largest(self) -> Architecture:
        """The network with the most MACs."""
        values = {name: max(options) for name, options in self.choices.items()}
        return self.decode(values | {"stem_stride": min(self.choices["stem_stride"])})

    @property
    def smallest_code(self) -> Codes:
        """[choices] the codes of `smallest`."""
        codes: Codes = np.zeros(len(self._names), dtype=np.int64)
        codes[self._position["stem_stride"]] = self._counts[self._position["stem_stride"]] - 1
        return codes

    def layers(self) -> tuple[Layer, ...]:
        """All layers that its networks are made of, without repeats: what a latency table must hold."""
        return self._index.layers

    # Settings, codes and networks

    def values(self, codes: Codes) -> dict[str, Any]:
        """The setting of one row of codes [choices]."""
        return {name: self.choices[name][int(code)] for name, code in zip(self._names, codes, strict=True)}

    def codes(self, values: Mapping[str, Any]) -> Codes:
        """The canonical row [choices] of a setting.

        Raises:
            InputError: a choice is missing, or a value is none of its.
        """
        row = []
        for name, options in self.choices.items():
            if name not in values or values[name] not in options:
                raise InputError(f"{name}: expected one of {options}, received {values.get(name)!r}.")
            row.append(options.index(values[name]))
        canonical: Codes = self.canonical(np.array([row]))[0]
        return canonical

    def decode(self, values: Mapping[str, Any]) -> Architecture:
        """The network of a setting."""
        width, stem_stride = values["width"], values["stem_stride"]
        blocks: list[Block] = [Input(self.input_shape), self._stem(width, stem_stride)]
        for stage, (channels, stride) in enumerate(self._plan.stages, start=1):
            for block in range(1, values[f"stage{stage}_depth"] + 1):
                blocks.append(
                    MBConv(
                        kernel=values[f"stage{stage}_block{block}_kernel"],
                        expansion=values[f"stage{stage}_block{block}_expansion"],
                        stride=stride if block == 1 else 1,
                        channels=_scaled(channels, width),
                        se_ratio=values[f"stage{stage}_se"],
                        activation=self.activation,
                    )
                )
        blocks += [Head(_scaled(self._plan.features, width), self.activation), Dense(self.classes)]
        return Architecture.chain(*blocks)

    def decode_codes(self, codes: Codes) -> list[Architecture]:
        """The networks of rows [N, choices]."""
        return [self.decode(self.values(row)) for row in codes]

    def encode(self, architectures: Sequence[Architecture]) -> Codes:
        """Canonical rows [N, choices] of networks of this space.

        Raises:
            InputError: a network is not of this space.
        """
        rows = [self._encode(architecture) for architecture in architectures]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self._names))

    def canonical(self, codes: Codes) -> Codes:
        """The rows with the codes of hidden blocks set to 0."""
        codes = np.array(codes, dtype=np.int64)
        codes[~self.visible(codes)] = 0
        return codes

    def visible(self, codes: Codes) -> npt.NDArray[np.bool_]:
        """[N, choices] whether a choice changes the network."""
        shown = np.ones(codes.shape, dtype=bool)
        for stage in range(1, len(self._plan.stages) + 1):
            depth = codes[:, self._position[f"stage{stage}_depth"]]
            for block in range(2, max(DEPTHS) + 1):
                kept = depth >= DEPTHS.index(block)
                for part in ("kernel", "expansion"):
                    shown[:, self._position[f"stage{stage}_block{block}_{part}"]] = kept
        return shown

    def distributions(self) -> "dict[str, BaseDistribution]":
        """For Optuna: every choice is always a parameter; depth masks what it hides."""
        from optuna.distributions import CategoricalDistribution

        return {name: CategoricalDistribution(values) for name, values in self.choices.items()}

    # Moves

    def sample(self, rng: np.random.Generator, count: int = 1) -> Codes:
        """Canonical rows [count, choices], every choice uniform."""
        return self.canonical(rng.integers(0, self._counts, size=(count, len(self._names))))

    def mutate(self, codes: Codes, rng: np.random.Generator, rate: float = 0.1) -> Codes:
        """Rows in which each choice was drawn anew with probability `rate`; each differs from its origin.

        Raises:
            InputError: the rate is not above 0 and at most 1.
        """
        if not 0 < rate <= 1:
            raise InputError(f"The rate of mutation is above 0 and at most 1, received {rate}.")
        result = self.canonical(codes)
        same = np.ones(len(result), dtype=bool)
        while same.any():
            drawn = rng.integers(0, self._counts, size=result.shape)
            change = (rng.random(result.shape) < rate) & same[:, None]
            result = np.where(change, drawn, result)
            result = self.canonical(result)
            same = (result == self.canonical(codes)).all(axis=1)
        return result

    def crossover(self, first: Codes, second: Codes, rng: np.random.Generator) -> Codes:
        """Rows that take each choice from one parent or the other, with equal chance."""
        return self.canonical(np.where(rng.random(first.shape) < 0.5, first, second))

    def neighbours(self, code: Codes) -> Codes:
        """[M, choices] all networks that one other value of one choice makes of a row [choices]."""
        rows = []
        for position in np.flatnonzero(self.visible(code[None])[0]):
            for value in range(self._counts[position]):
                if value != code[position]:
                    row = code.copy()
                    row[position] = value
                    rows.append(row)
        return np.unique(self.canonical(np.array(rows)), axis=0)

    def repair(
        self,
        codes: Codes,
        excess: Callable[[Codes], npt.NDArray[np.float64]],
        rng: np.random.Generator,
        towards: Codes | None = None,
    ) -> Codes:
        """Rows moved towards a network that keeps the limits until they do too, by as few choices as found.

        Args:
            codes: [N, choices].
            excess: [N, choices] -> [N] how far a row breaks its limits; at most 0 where it keeps them.
            rng: draws which choices give way.
            towards: [choices] a row that keeps the limits (the smallest network's).

        Returns:
            [N, choices] rows; one that breaks its limits still could not be repaired.
        """
        result = self.canonical(codes)
        for index in np.flatnonzero(excess(result) > 0):
            result[index] = self._repair(result[index], excess, rng, self.smallest_code if towards is None else towards)
        return result

    def _repair(
        self,
        code: Codes,
        excess: Callable[[Codes], npt.NDArray[np.float64]],
        rng: np.random.Generator,
        towards: Codes,
    ) -> Codes:
        orders = np.argsort(rng.random((8, len(code))), axis=1)
        ranks = np.argsort(orders, axis=1)
        # Row (order, k): the first k choices of that order take the other network's value.
        given = ranks[:, None, :] < np.arange(1, len(code) + 1)[None, :, None]
        rows = self.canonical(np.where(given, towards, code).reshape(-1, len(code)))
        kept = np.flatnonzero(excess(rows) <= 0)
        if kept.size == 0:
            return code
        changed = (rows[kept] != code).sum(axis=1)
        best: Codes = rows[kept[np.argmin(changed)]]
        return best

    # Which layer stands where

    def layer_index(self, codes: Codes) -> npt.NDArray[np.int32]:
        """[N, slots] for each place of a network the index in `layers()`, or len(layers()) where nothing stands."""
        return self._index.look_up(codes)

    def sum_over_layers(self, codes: Codes, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """[N, columns] the sum over each network's layers of what each of `layers()` has in `values` [layers, columns].

        Slot by slot, a few thousand networks at a time: what is added up stays in the caches.
        """
        return self._index.sums(codes, values)

    @functools.cached_property
    def _index(self) -> LayerIndex:
        return LayerIndex(self.choices, DEPTHS, self.decode)

    def _stem(self, width: float, stride: int) -> Conv:
        kernel = 3 if stride < 4 else 5  # no pixel is skipped
        return Conv(kernel, stride, _scaled(self._plan.stem_channels, width), self.activation)

    def _encode(self, architecture: Architecture) -> Codes:
        blocks = [node.block for node in architecture.nodes]
        moulds = [block for block in blocks if isinstance(block, MBConv)]
        for width, stem_stride in itertools.product(WIDTHS, self._plan.stem_strides):
            if blocks[1] != self._stem(width, stem_stride) or len(moulds) != len(blocks) - 4:
                continue
            values = dict.fromkeys(self.choices) | {"width": width, "stem_stride": stem_stride}
            values |= {name: options[0] for name, options in self.choices.items() if values[name] is None}
            if self._fill_stages(values, moulds) and self.decode(values) == architecture:
                return self.codes(values)
        raise InputError(f"The network {architecture.id} is not of {self!r}: {architecture}")

    def _fill_stages(self, values: dict[str, Any], moulds: Sequence[MBConv]) -> bool:
        """Read the stages' choices off the blocks; whether they could be laid out in stages."""
        start = 0
        for stage, (channels, stride) in enumerate(self._plan.stages, start=1):
            channels = _scaled(channels, values["width"])
            depth = 0
            for mould in moulds[start : start + max(DEPTHS)]:
                if mould.channels != channels or mould.stride != (stride if depth == 0 else 1):
                    break
                depth += 1
                values[f"stage{stage}_block{depth}_kernel"] = mould.kernel
                values[f"stage{stage}_block{depth}_expansion"] = mould.expansion
                values[f"stage{stage}_se"] = mould.se_ratio
            if depth == 0:
                return False
            values[f"stage{stage}_depth"] = depth
            start += depth
        return start == len(moulds)
