"""Networks that a practitioner would draw, in a space's own choices: a search begins with them, and must beat them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.space.layer_index import Codes
from edgenas.space.mobile import MobileSpace

SIZES = 3  # of each family at most


def hand_made(space: MobileSpace) -> dict[str, Codes]:
    """Name -> [choices]: two families in every width and stem stride of the space, each family's largest first.

    MobileNetV2-like (Sandler et al., CVPR 2018): 3x3 kernels, no expansion in the first stage and sixfold in the
    others, deeper towards the end. MobileNetV1-like (Howard et al., 2017): plain depthwise-separable 3x3 blocks.
    """
    found: dict[str, Codes] = {}
    for family, setting in (("MobileNetV2-like", _v2), ("MobileNetV1-like", _v1)):
        drawn = {}
        for width in space.choices["width"]:
            for stride in space.choices["stem_stride"]:
                values = _within(space, setting(space) | {"width": width, "stem_stride": stride})
                stem = f", stem stride {stride}" if len(space.choices["stem_stride"]) > 1 else ""
                drawn[f"{family} {width:g}x{stem}"] = space.decode(values).macs, space.codes(values)
        found |= {name: code for name, (_, code) in sorted(drawn.items(), key=lambda item: -item[1][0])}
    return found


def hand_made_within(
    space: MobileSpace, excess: Callable[[Codes], npt.NDArray[np.float64]], count: int
) -> dict[str, Codes]:
    """The largest of each family that keep the limits, the families in turn; at most `count`, and `SIZES` a family.

    Args:
        excess: [N, choices] -> [N] how far a row breaks its limits; at most 0 where it keeps them.
    """
    families: dict[str, list[str]] = {}
    drawn = hand_made(space)
    for name, code in drawn.items():
        if excess(code[None])[0] <= 0:
            families.setdefault(name.partition(" ")[0], []).append(name)
    ranked = sorted(
        (place, number, name)
        for number, names in enumerate(families.values())
        for place, name in enumerate(names[:SIZES])
    )
    kept: dict[str, Codes] = {}
    for _, _, name in ranked:
        if len(kept) < count and not any((drawn[name] == code).all() for code in kept.values()):
            kept[name] = drawn[name]
    return kept


def _v2(space: MobileSpace) -> dict[str, Any]:
    stages = _stages(space)
    values = _everywhere(space, kernel=3, expansion=6)
    for stage in range(1, stages + 1):
        values[f"stage{stage}_depth"] = min(4, 1 + stage) if stages > 3 else stage
    values |= {name: 1 for name in values if name.startswith("stage1_block") and name.endswith("expansion")}
    return values


def _v1(space: MobileSpace) -> dict[str, Any]:
    values = _everywhere(space, kernel=3, expansion=1)
    return values | {f"stage{stage}_depth": 2 for stage in range(1, _stages(space) + 1)}


def _stages(space: MobileSpace) -> int:
    return sum(name.endswith("_depth") for name in space.choices)


def _within(space: MobileSpace, wanted: dict[str, Any]) -> dict[str, Any]:
    """The same setting in values that the space has: the largest that is not above what is wanted."""
    return {
        name: max((option for option in options if option <= wanted[name]), default=min(options))
        for name, options in space.choices.items()
    }


def _everywhere(space: MobileSpace, kernel: int, expansion: int) -> dict[str, Any]:
    """A setting of blocks that are all alike, without squeeze-and-excitation."""
    values: dict[str, Any] = {}
    for name, options in space.choices.items():
        values[name] = kernel if name.endswith("kernel") else expansion if name.endswith("expansion") else options[0]
    return values
