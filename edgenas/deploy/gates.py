"""What a bundle must pass before it is written: each gate compares figures with what is accepted.

Where a gate looks at images, they are the acceptance ones, which no training and no choice has seen.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenas.deploy.manifest import Gate, Predicted
from edgenas.errors import CheckFailedError, InputError, near
from edgenas.evaluation.data import metrics, paired_interval
from edgenas.model import Precision, operator_kinds
from edgenas.model.convert import check_input, input_of
from edgenas.model.operators import CUSTOM

HAS_LEARNED, FLOAT_CONVERSION, QUANTISATION = "has_learned", "float_conversion", "quantisation"
BUILTIN_OPERATORS, RAW_PIXELS, LIMITS = "builtin_operators", "raw_pixels", "limits"
GATES = (HAS_LEARNED, FLOAT_CONVERSION, QUANTISATION, BUILTIN_OPERATORS, RAW_PIXELS, LIMITS)
LEAST_AGREEMENT = 0.98  # share of images on which a float32 file must name the class that Keras names
MOST_LOSS = 0.01  # of accuracy, that an int8 file may cost

Logits = npt.NDArray[Any]  # [n, classes], floating
Right = npt.NDArray[np.bool_]  # [n] whether each image's class was named


def has_learned(true: npt.NDArray[np.int64], named: npt.NDArray[np.int64], classes: int) -> Gate:
    """Whether the file to deploy is better than guessing: the lower 95% end of its balanced accuracy is above chance.

    Accuracy alone would not tell: who always names the largest class gets that class's share right.

    Args:
        true, named: [n] classes of the images, and what the file names.
    """
    found = metrics(true, named, classes)
    chance = 1 / classes
    # Near chance an interval from the recalls that were found is too short below; guessing itself spreads so much.
    low = min(found["balanced_accuracy_interval"][0], found["balanced_accuracy"] - 1.96 * float(found["chance_error"]))
    figures = {
        "images": float(len(true)),
        "balanced_accuracy": found["balanced_accuracy"],
        "low": low,
        "chance": chance,
        "accuracy": found["accuracy"],
        "largest_class": float(np.bincount(true).max() / len(true)),
    }
    detail = (
        f"balanced accuracy {found['balanced_accuracy']:.1%}, at least {low:.1%} (95%), where guessing gets "
        f"{chance:.1%}; accuracy {found['accuracy']:.1%} on {len(true)} images, of which the largest class has "
        f"{figures['largest_class']:.1%}"
    )
    return Gate(HAS_LEARNED, low > chance, detail, figures)


def float_conversion(trained: Logits, converted: Logits) -> Gate:
    """Whether the float32 file is the network that was trained: it names the same class on 98% of the images.

    Args:
        trained: [n, classes] of the Keras model.
        converted: [n, classes] of its float32 file, on the same images.
    """
    images = len(trained)
    if not np.isfinite(converted).all():
        broken = int((~np.isfinite(converted).all(axis=1)).sum())
        figures = {"images": float(images), "not_finite": float(broken)}
        return Gate(FLOAT_CONVERSION, False, f"outputs that are not finite on {broken} of {images} images", figures)
    difference = np.abs(np.asarray(trained, float) - converted)
    agreement = float((trained.argmax(axis=1) == converted.argmax(axis=1)).mean())
    figures = {
        "images": float(images),
        "largest_difference": float(difference.max()),
        "mean_difference": float(difference.mean()),
        "agreement": agreement,
    }
    detail = (
        f"the float32 file names the class that Keras names on {agreement:.2%} of {images} images (at least "
        f"{LEAST_AGREEMENT:.0%}); logits differ by {difference.max():.2g} at most, {difference.mean():.2g} on average"
    )
    return Gate(FLOAT_CONVERSION, agreement >= LEAST_AGREEMENT, detail, figures)


def quantisation(before: Right, after: Right) -> Gate:
    """Whether int8 costs at most a point of accuracy.

    It fails when the loss is more than a point AND the lower end of its paired 95% interval is above 0: then images
    enough were lost that chance alone does not explain it. With few images only a great loss can be told from chance;
    the interval shows how much may hide.

    Args:
        before: [n] of the float32 file of the network as it was trained.
        after: [n] of the int8 file, on the same images.
    """
    images = len(before)
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    low, high = paired_interval(int((before & after).sum()), lost, won, int((~before & ~after).sum()))
    loss = (lost - won) / images
    figures = {
        "images": float(images),
        "float32_accuracy": float(before.mean()),
        "int8_accuracy": float(after.mean()),
        "loss": loss,
        "loss_low": low,
        "loss_high": high,
    }
    detail = (
        f"int8 costs {100 * loss:.2f} points of accuracy (95%: {100 * low:.2f} to {100 * high:.2f}; at most "
        f"{100 * MOST_LOSS:g}): {before.mean():.2%} before, {after.mean():.2%} after, on {images} images"
    )
    return Gate(QUANTISATION, not (loss > MOST_LOSS and low > 0), detail, figures)


def builtin_operators(*contents: bytes) -> Gate:
    """Whether every operator of these files is one of TensorFlow Lite's own, so that any runtime has it."""
    kinds = sorted({kind for content in contents for kind in operator_kinds(content)})
    foreign = [kind.removeprefix(CUSTOM) for kind in kinds if kind.startswith(CUSTOM)]
    detail = f"{len(kinds)} kinds of operators, all built in"
    if foreign:
        detail = f"operators that no plain runtime has: {', '.join(foreign)}"
    figures = {"kinds": float(len(kinds)), "foreign": float(len(foreign))}
    return Gate(BUILTIN_OPERATORS, not foreign, detail, figures)


def raw_pixels(content: bytes, precision: Precision, beside: bytes | None = None) -> Gate:
    """Whether a file takes raw pixels: in int8 its input's quantisation is exactly scale 1, zero point 0.

    Args:
        beside: the float32 file in the same bundle; None: there is none.
    """
    found = input_of(content)
    figures = {"scale": found.scale, "zero_point": float(found.zero_point)}
    try:
        check_input(content, precision)
        if beside is not None:
            check_input(beside, "float32")
    except CheckFailedError as error:
        return Gate(RAW_PIXELS, False, str(error).rstrip("."), figures)
    how = "scale 1, zero point 0" if precision == "int8" else "not quantised"
    return Gate(RAW_PIXELS, True, f"the input takes raw pixels as {found.dtype}, {how}", figures)


def limits(asked: Mapping[str, float | None], predicted: Predicted, size_kb: float) -> Gate:
    """Whether the limits of the study are kept.

    Args:
        asked: "max_latency_ms" and so on; None: no limit.
        predicted: the latency's upper end is held against its limit; without an interval nothing backs it.
        size_kb: of the file itself, which takes the place of the predicted one.
    """
    found: dict[str, float | None] = {
        "latency_ms": predicted.latency_interval_ms[1] if predicted.latency_interval_ms else None,
        "arena_kb": predicted.arena_kb,
        "model_kb": size_kb,
        "peak_memory_kb": predicted.arena_kb + size_kb,
    }
    figures: dict[str, float] = {}
    passed, told = True, []
    for limit, most in asked.items():
        name = limit.removeprefix("max_")
        if most is None:
            continue
        value = found[name]
        if value is None:
            passed = False
            why = f" ({predicted.doubt})" if predicted.doubt else ""
            told.append(
                f"{name}: at most {most:g}, but no certified table tells what it will be{why}; profile the device, "
                f"or let it pass with --allow {LIMITS}"
            )
            continue
        figures |= {name: value, limit: most}
        passed = passed and value <= most
        told.append(f"{name} {value:.4g} of at most {most:g}" + ("" if value <= most else " IS TOO MUCH"))
    return Gate(LIMITS, passed, "; ".join(told) or "none asked", figures)


def check_names(allow: Collection[str]) -> None:
    """Raise `InputError` where one of these is no gate."""
    for name in allow:
        if name not in GATES:
            raise InputError(f"There is no gate {name!r}. {near(name, GATES)}")


def let_through(found: Sequence[Gate], allow: Collection[str]) -> tuple[Gate, ...]:
    """The gates, those that failed and may marked so.

    Raises:
        CheckFailedError: others failed; all of them are named, with figures.
    """
    marked = tuple(dataclasses.replace(gate, allowed=not gate.passed and gate.name in allow) for gate in found)
    failed = [gate for gate in marked if not gate.passed and not gate.allowed]
    if failed:
        told = "; ".join(f"{gate.name}: {gate.detail}" for gate in failed)
        allowing = " ".join(f"--allow {gate.name}" for gate in failed)
        raise CheckFailedError(
            f"{len(failed)} of {len(marked)} gates failed, so no bundle was written. {told}. Try another point of the "
            f"front, more steps or another --precision; {allowing} writes the bundle all the same, and its manifest "
            "says so."
        )
    return marked
