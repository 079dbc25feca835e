"""From the sum of layers to a whole network: corrections that a few whole networks teach.

Layers measured alone are the prior. What they miss is systematic: a kind of layer that is slower or faster in company,
what a runtime spends between operators, and caches. A layer that runs alone, again and again, finds its weights in the
caches; in a network that keeps more than the caches hold, the other layers have taken their place. How long each layer
takes to fetch its own again, and how much memory it keeps, is measured; how much the caches hold is learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from edgenas.architecture import Architecture, Conv, Head, Layer, MBConv
from edgenas.latency.table.certificate import Network

Values = npt.NDArray[np.float64]

# What a network's time may depend on; a layer adds its share to each.
FEATURES = ("sum", "stem", "head", "kernel5", "kernel7", "gate", "expansion1", "blocks", "weights_kb", "activations_kb")
# Penalties and cache sizes tried; those with the least leave-one-out error are taken.
_PENALTIES = 10.0 ** np.arange(-4, 2.1, 0.5)
_CACHES_KB = tuple(float(round(128 * 2 ** (step / 2))) for step in range(15))  # 128 kB to 16 MB
# Scale, offset and the caches' share are nearly free to move: they are physics, and every device differs.
_FREE = 0.01


@lru_cache(maxsize=65536)
def _traits(layer: Layer) -> tuple[tuple[bool, ...], tuple[float, ...]]:
    """Which features take the layer's measured time, and what it adds to the others."""
    block = layer.block
    mould = block if isinstance(block, MBConv) else None
    timed = (
        True,
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


def features(layer: Layer, us: float) -> Values:
    """[FEATURES] what a layer that takes `us` microseconds alone adds to each feature of its network."""
    timed, counted = _traits(layer)
    return np.array([us if part else 0.0 for part in timed] + list(counted))


@dataclass(frozen=True)
class Loads:
    """What the layers of a network ask of the caches.

    Attributes:
        reload_us: [layers] how much longer each takes when the caches are full of other data.
        resident_kb: [layers] memory that each keeps.
    """

    reload_us: Values
    resident_kb: Values


def cache_terms(reload_us: Values, resident_kb: Values, cache_kb: float) -> Values:
    """[layers, 3] what each layer adds to the three sums of `refetch_us`."""
    fits = np.minimum(1.0, cache_kb / np.maximum(resident_kb, 1e-9))
    return np.stack([reload_us * fits, reload_us * cache_kb, resident_kb], axis=-1)


def refetch_us(sums: Values, cache_kb: float) -> Values:
    """[N] what networks spend on fetching again what their other layers have driven out of the caches.

    With W the memory that all layers keep and C what the caches hold, a share 1 - C / W of what is used in turn has
    been driven out when its turn comes. A layer that alone keeps more than C pays for its own part, 1 - C / w, already
    when it runs alone. So layer i pays r_i min(1, C / w_i) (1 - max(C, w_i) / W), r_i being its reload time; summed
    over the layers that is A - C R / W, with A the sum of r_i min(1, C / w_i) and R that of r_i.

    Args:
        sums: [N, 3] of `cache_terms` over each network's layers: A, C R, W.
    """
    kept, reloads, resident_kb = sums.T
    return np.where(resident_kb > cache_kb, np.maximum(0.0, kept - reloads / np.maximum(resident_kb, 1e-9)), 0.0)


@dataclass(frozen=True)
class Calibration:
    """A network's time = offset + the sum over its layers of coefficients x features + refetch x `refetch_us`.

    Attributes:
        coefficients: by name of the feature; those that are missing are 0.
        offset_us: of each network.
        cache_kb: what the caches hold, as far as it could be learned.
        refetch: the share of `refetch_us` that networks really take; 0 where the caches play no part.
        networks: what they were fitted on, with what the fit gives for them.
    """

    coefficients: dict[str, float] = field(default_factory=lambda: {"sum": 1.0})
    offset_us: float = 0.0
    cache_kb: float = 0.0
    refetch: float = 0.0
    networks: tuple[Network, ...] = ()

    @cached_property
    def _weights(self) -> Values:
        return np.array([self.coefficients.get(name, 0.0) for name in FEATURES])

    def layer_us(self, layer: Layer, us: float) -> float:
        """What a layer that takes `us` alone adds to its network's time, caches apart."""
        return float(features(layer, us) @ self._weights)

    def network_us(self, sums: Values) -> Values:
        """[N] times from [N, 4]: the sum of `layer_us`, and those of `cache_terms`."""
        times = sums[:, 0] + self.offset_us
        if self.refetch:
            times = times + self.refetch * refetch_us(sums[:, 1:], self.cache_kb)
        # A network cannot take less than nothing, whatever the fit says below the networks it saw.
        return np.maximum(times, 0.1)


def fit(sums: Values, truth_us: Values, loads: Sequence[Loads]) -> Calibration:
    """The shrunken regression: ridge regression of the relative error towards "the sum of the layers".

    Each coefficient's penalty is scaled by how far it moves a typical network. The common factor and the size of the
    caches are chosen by leave-one-out cross-validation (Golub, Heath & Wahba, 1979).

    Args:
        sums: [networks, FEATURES] of whole networks.
        truth_us: [networks] their measured times.
        loads: of each network's layers.
    """
    best_error, best = np.inf, Calibration()
    for cache_kb in _CACHES_KB:
        fetched = np.array([_refetched_us(load, cache_kb) for load in loads])
        if not fetched.any() and best_error < np.inf:
            break  # no network keeps that much
        error, fitted = _ridge(np.c_[sums, fetched, np.ones(len(sums))] / truth_us[:, None])
        if error < best_error:
            named = dict(zip(FEATURES, map(float, fitted[:-2]), strict=True))
            # Fetching takes time: less than none is noise.
            best_error, best = error, Calibration(named, float(fitted[-1]), cache_kb, max(0.0, float(fitted[-2])))
    return best


def _refetched_us(load: Loads, cache_kb: float) -> float:
    terms = cache_terms(load.reload_us, load.resident_kb, cache_kb)
    return float(refetch_us(terms.sum(axis=0)[None], cache_kb)[0])


def _ridge(rows: Values) -> tuple[float, Values]:
    """The least leave-one-out error over all penalties, and the coefficients; the columns are relative to the truth,
    the first the sum of the layers, the last two the caches' and the offset's."""
    prior = np.zeros(rows.shape[1])
    prior[0] = 1.0
    scale = np.sqrt((rows**2).mean(axis=0))
    used = scale > 0
    design = rows[:, used] / scale[used]
    residual = 1.0 - rows @ prior
    free = np.ones(rows.shape[1])
    free[[0, -2, -1]] = _FREE
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
    return best_error, fitted


def choose_networks(pool: Sequence[Architecture], count: int) -> tuple[Architecture, ...]:
    """The networks of a pool that tell most about the coefficients: greedy D-optimal design (Fedorov, 1972).

    Before anything is measured MACs stand in for times.
    """
    rows = np.array([[*np.sum([features(x, x.macs / 1e4) for x in network.layers()], axis=0), 1.0] for network in pool])
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
