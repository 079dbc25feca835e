"""From the sum of layers to a whole network: corrections that a few whole networks teach.

Layers measured alone are the prior. What they miss is systematic: weights that are in the caches when one layer runs
again and again, and are not when forty run in a row (how long it takes to fetch them is measured too); what a runtime
spends between operators; a kind of layer that is slower or faster in company. Each is one coefficient, and each
coefficient is shrunk towards "no correction".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from edgenas.architecture import Architecture, Conv, Head, Layer, MBConv
from edgenas.latency.certificate import Network

Values = npt.NDArray[np.float64]

# What a network's time may depend on besides the sum of its layers; a layer adds its share to each.
FEATURES = (
    "sum", "reload", "stem", "head", "kernel5", "kernel7", "gate", "expansion1", "blocks", "weights_kb", "activations_kb"
)  # fmt: skip
# Penalties tried; the one with the least leave-one-out error is taken.
_PENALTIES = 10.0 ** np.arange(-4, 2.1, 0.5)
# Scale and offset are nearly free to move: every device needs them.
_FREE = 0.01


@lru_cache(maxsize=65536)
def _traits(layer: Layer) -> tuple[tuple[bool, ...], tuple[float, ...]]:
    """Which features take the layer's measured time, and what it adds to the others."""
    block = layer.block
    mould = block if isinstance(block, MBConv) else None
    timed = (
        isinstance(block, Conv),
        isinstance(block, Head),
        mould is not None and mould.kernel == 5,
        mould is not None and mould.kernel == 7,
        mould is not None and mould.se_ratio > 0,
        mould is not None and mould.expansion == 1,
    )
    shapes = [*layer.input_shapes, layer.output_shape]
    activations = sum(height * width * channels for height, width, channels in shapes)
    return timed, (float(mould is not None), layer.parameters / 1024, activations / 1024)


def features(layer: Layer, us: float, reload_us: float) -> Values:
    """[FEATURES] what a layer adds to each feature of its network.

    Args:
        us: microseconds that it takes alone, again and again.
        reload_us: how much longer when other models have had the caches.
    """
    timed, counted = _traits(layer)
    return np.array([us, reload_us, *(us if part else 0.0 for part in timed), *counted])


@dataclass(frozen=True)
class Calibration:
    """A network's time = offset + the sum over its layers of coefficients x features.

    Attributes:
        coefficients: by name of the feature; those that are missing are 0.
        offset_us: of each network.
        networks: what they were fitted on, with what the fit gives for them.
    """

    coefficients: dict[str, float] = field(default_factory=lambda: {"sum": 1.0})
    offset_us: float = 0.0
    networks: tuple[Network, ...] = ()

    @cached_property
    def _weights(self) -> Values:
        return np.array([self.coefficients.get(name, 0.0) for name in FEATURES])

    def layer_us(self, layer: Layer, us: float, reload_us: float) -> float:
        """What a layer adds to its network's time; the arguments are those of `features`."""
        return float(features(layer, us, reload_us) @ self._weights)


def fit(sums: Values, truth_us: Values) -> tuple[Values, float]:
    """Coefficients [FEATURES] and offset of the shrunken regression.

    Ridge regression of the relative error towards (1, 0, 0, ...): each coefficient's penalty is scaled by how far it
    moves a typical network, and the common factor is chosen by leave-one-out cross-validation (Golub, Heath & Wahba,
    1979).

    Args:
        sums: [networks, FEATURES] of whole networks.
        truth_us: [networks] their measured times.
    """
    rows = np.c_[sums, np.ones(len(sums))] / truth_us[:, None]
    prior = np.zeros(rows.shape[1])
    prior[0] = 1.0
    scale = np.sqrt((rows**2).mean(axis=0))
    used = scale > 0
    design = rows[:, used] / scale[used]
    residual = 1.0 - rows @ prior
    free = np.ones(rows.shape[1])
    free[[0, -1]] = _FREE
    best_error, best = np.inf, np.zeros(design.shape[1])
    for penalty in _PENALTIES:
        inverse = np.linalg.inv(design.T @ design + penalty * len(rows) * np.diag(free[used]))
        change = inverse @ design.T @ residual
        leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
        left_out = (residual - design @ change) / np.maximum(1 - leverage, 1e-6)
        error = float(np.mean(np.abs(left_out)))
        if error < best_error:
            best_error, best = error, change
    fitted = prior
    fitted[used] += best / scale[used]
    return fitted[:-1], float(fitted[-1])


def choose_networks(pool: Sequence[Architecture], count: int) -> tuple[Architecture, ...]:
    """The networks of a pool that tell most about the coefficients: greedy D-optimal design (Fedorov, 1972).

    Before anything is measured MACs stand in for times.
    """
    rows = np.array([np.r_[_guessed(network), 1.0] for network in pool])
    rows /= rows[:, :1]  # errors are relative
    scale = np.sqrt((rows**2).mean(axis=0))
    rows = rows[:, scale > 0] / scale[scale > 0]
    inverse = np.eye(rows.shape[1]) * 100.0
    chosen: list[int] = []
    for _ in range(min(count, len(pool))):
        gain = np.einsum("ij,jk,ik->i", rows, inverse, rows)
        gain[chosen] = -np.inf
        index = int(np.argmax(gain))
        chosen.append(index)
        step = inverse @ rows[index]
        inverse -= np.outer(step, step) / (1 + rows[index] @ step)
    return tuple(pool[index] for index in chosen)


def _guessed(network: Architecture) -> Values:
    total: Values = np.sum(
        [features(layer, layer.macs / 1e4, layer.parameters / 1e4) for layer in network.layers()], axis=0
    )
    return total
