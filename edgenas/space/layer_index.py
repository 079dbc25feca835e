"""Which layer of a space stands where in a network: lookups from codes, so that sums over layers are quick."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.architecture import Architecture, Layer

Codes = npt.NDArray[np.int64]  # [N, choices]
_CHUNK = 4096


class LayerIndex:
    """For each slot of a network a lookup from the choices that decide its layer to the layer's index.

    Args:
        choices: the space's, name -> options.
        depths: of a stage.
        decode: values of all choices to the network.

    Attributes:
        layers: all that a network of the space can have.
    """

    def __init__(
        self,
        choices: Mapping[str, Sequence[Any]],
        depths: Sequence[int],
        decode: Callable[[Mapping[str, Any]], Architecture],
    ) -> None:
        self._choices, self._depths = choices, depths
        found: dict[Layer, int] = {}
        shared = {name: options[0] for name, options in choices.items()}
        # (positions of the deciding choices, strides of the flat lookup, lookup, depth: its position and least code)
        self._slots: list[tuple[list[int], npt.NDArray[np.int64], npt.NDArray[np.int32], tuple[int, int] | None]] = []
        position = {name: index for index, name in enumerate(choices)}
        for names, depth, pick in self._plan():
            options = [choices[name] for name in names]
            lookup = []
            for setting in itertools.product(*options):
                layers = decode(shared | dict(zip(names, setting, strict=True)) | (depth[2] if depth else {})).layers()
                lookup.append(found.setdefault(layers[pick], len(found)))
            strides = np.array([math.prod(map(len, options[i + 1 :])) for i in range(len(options))], dtype=np.int64)
            least = (position[depth[0]], depth[1]) if depth else None
            self._slots.append(([position[name] for name in names], strides, np.array(lookup, dtype=np.int32), least))
        self.layers = tuple(found)

    def _plan(self) -> "list[tuple[list[str], tuple[str, int, dict[str, Any]] | None, int]]":
        """Slots: (names of the deciding choices, (depth's name, least code, its setting), the layer's place)."""
        shape = ["width", "stem_stride"]
        plan: list[tuple[list[str], tuple[str, int, dict[str, Any]] | None, int]] = [
            (["width"], None, 0),
            (shape, None, 1),
        ]
        stages = sum(name.endswith("_depth") for name in self._choices)
        for stage in range(1, stages + 1):
            for block in self._depths:
                parts = [
                    f"stage{stage}_se",
                    f"stage{stage}_block{block}_kernel",
                    f"stage{stage}_block{block}_expansion",
                ]
                depth = f"stage{stage}_depth"
                # The other stages have depth 1 in the shared setting.
                plan.append(
                    (shape + parts, (depth, self._depths.index(block), {depth: block}), 1 + (stage - 1) + block)
                )
        plan += [(shape, None, -2), (["width"], None, -1)]
        return plan

    def sums(self, codes: Codes, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        with_nothing = np.vstack([values, np.zeros(values.shape[1])])
        result = np.zeros((values.shape[1], len(codes)))
        for start in range(0, len(codes), _CHUNK):
            columns = np.ascontiguousarray(codes[start : start + _CHUNK].T)
            for positions, strides, lookup, least in self._slots:
                flat = columns[positions[0]] * strides[0]
                for position, stride in zip(positions[1:], strides[1:], strict=True):
                    flat += columns[position] * stride
                index = lookup[flat]
                if least is not None:
                    index = np.where(columns[least[0]] >= least[1], index, len(values))
                for row, column in enumerate(with_nothing.T):
                    result[row, start : start + _CHUNK] += column[index]
        return result.T

    def look_up(self, codes: Codes) -> npt.NDArray[np.int32]:
        result = np.empty((len(codes), len(self._slots)), dtype=np.int32)
        for slot, (positions, strides, lookup, least) in enumerate(self._slots):
            index = lookup[codes[:, positions] @ strides]
            if least is not None:
                index = np.where(codes[:, least[0]] >= least[1], index, len(self.layers))
            result[:, slot] = index
        return result
