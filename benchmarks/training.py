"""Is the product's training as good as one that was tuned by hand? Asked on the small data sets.

For each set and seed one network, the largest MobileNetV2-like one of at most 6 million MACs, is trained twice: as
`edgenas train` does it, and by hand. By hand is Keras' own `fit` with AdamW, in six ways: images as they are or varied,
at three learning rates; each stops when nothing better comes on the validation images (of data without any: on the
first fold), and the way that does best there counts. What each gets right of the test images is counted on the Keras
models. The images are split by one seed throughout, so all are tested on the same ones. Prints a table and writes
JSON; it resumes, and `--only SET` runs one.
"""

import argparse
import dataclasses
import itertools
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

import edgenas.files as files
from benchmarks.small_sets import SETS, Bits, LeftOutError, answers, tested_and_right
from edgenas.architecture import Architecture
from edgenas.deploy.quantising import Material
from edgenas.evaluation.data import Dataset, Splits, split
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.stopping import find_stop
from edgenas.evaluation.training import Indices, predict, train
from edgenas.evaluation.workers import InThisProcess, Processes, Told
from edgenas.ledger import Ledger
from edgenas.model import build_model, keras_on_tensorflow
from edgenas.space import MobileSpace
from edgenas.space.baselines import hand_made

OUT = Path("benchmarks/results/training.json").absolute()
LOG = OUT.with_suffix(".jsonl")
FOLDER = Path(".edgenas/benchmarks/training").absolute()
SEEDS, SPLIT_SEED = (0, 1, 2), 0
FAMILY, MOST_MACS = "MobileNetV2-like", 6e6
BATCH, RATES = 32, (0.001, 0.003, 0.01)
MOST_EPOCHS, PATIENCE = 150, 15
COVERAGE, RESAMPLES = 0.9, 9_999
AT_A_TIME = 2  # trainings, each on a core
WORST = -0.02  # of accuracy: a set passes where the interval's lower end is above it
PRODUCT = "product"


@dataclass(frozen=True)
class Way:
    """One way of training by hand: whether images are varied, and the learning rate."""

    varied: bool
    rate: float

    def __str__(self) -> str:
        return f"{'varied' if self.varied else 'plain'}, {self.rate:g}"


WAYS = {str(way): way for way in (Way(varied, rate) for varied in (False, True) for rate in RATES)}
Line = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A set, loaded and split, and the network that is trained on it."""

    name: str
    dataset: Dataset
    splits: Splits
    network: Architecture

    @classmethod
    def of(cls, name: str) -> "Subject":
        """The one of a set.

        Raises:
            LeftOutError: the set cannot be made here.
        """
        dataset = SETS[name].load(FOLDER / "cache")
        space = MobileSpace("tiny", dataset.input_shape, dataset.classes)
        codes = [code for family, code in hand_made(space).items() if family.startswith(FAMILY)]
        drawn = [space.decode(space.values(code)) for code in codes]
        largest = max((each for each in drawn if each.macs <= MOST_MACS), key=lambda each: each.macs)
        return cls(name, dataset, split(dataset, SPLIT_SEED), largest)


def by_product(subject: Subject, seed: int) -> tuple[Any, dict[str, Any]]:
    """The network as `edgenas train` would train it, and what is to be noted."""
    dataset, splits, recipe = subject.dataset, subject.splits, Recipe()
    train_on = Material(dataset, splits, recipe, seed).train_on
    folder = FOLDER / "checkpoints" / f"{subject.name}-{seed}"
    stop = find_stop(
        subject.network, dataset, splits.rounds, train_on, recipe, seed,
        checkpoint=folder / "stop", told=lambda what, done, most: progress(subject, seed, what, done),
        workers=InThisProcess(),
    )  # fmt: skip
    recipe = dataclasses.replace(recipe, augment=stop.grade)
    model, _ = train(
        subject.network, dataset, train_on, recipe, stop.steps, seed,
        checkpoint=folder / "last", on_round=lambda done, values: progress(subject, seed, "training", done),
    )  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    held_out = [curve.best for curve in stop.curves if curve.name.endswith(stop.grade)]
    return model, {
        "steps": stop.steps,
        "augment": stop.grade,
        "converged": stop.converged,
        "validation": float(np.mean([accuracy for _, accuracy in held_out])),
    }


def progress(subject: Subject, seed: int, what: str, done: int) -> None:
    """A line now and then."""
    if done % 1000 == 0:
        print(f"{subject.name}, seed {seed}: {what}, step {done}", flush=True)


def by_hand(subject: Subject, seed: int, way: Way) -> tuple[Any, dict[str, Any]]:
    """The network as somebody with Keras would train it, and what is to be noted."""
    import keras

    keras.utils.set_random_seed(seed)
    train_on, held_out = subject.splits.rounds[0]
    model = build_model(subject.network)
    model.compile(
        keras.optimizers.AdamW(way.rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # XLA takes minutes on a CPU
    )
    stopping = keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=PATIENCE, restore_best_weights=True)
    fitted = model.fit(
        stream(subject.dataset, train_on, seed, varied=way.varied, training=True),
        validation_data=stream(subject.dataset, held_out, seed),
        epochs=MOST_EPOCHS,
        callbacks=[stopping],
        shuffle=False,  # the stream is
        verbose=0,
    )
    found = fitted.history["val_accuracy"]
    return model, {
        "epochs": len(found),
        "best_epoch": int(np.argmax(found)) + 1,
        "validation": float(max(found)),
        "validation_loss": float(fitted.history["val_loss"][int(np.argmax(found))]),
    }


def stream(dataset: Dataset, indices: Indices, seed: int, *, varied: bool = False, training: bool = False) -> Any:
    """A `tf.data.Dataset` of batches for `fit`, made of what TensorFlow and Keras bring."""
    import keras
    import tensorflow as tf

    made = tf.data.Dataset.from_tensor_slices((dataset.x[indices], dataset.y[indices]))
    if training:
        made = made.shuffle(len(indices), seed=seed)
    made = made.batch(BATCH).map(lambda images, classes: (tf.cast(images, tf.float32), classes))
    if varied:
        layers = [
            keras.layers.RandomTranslation(0.1, 0.1, seed=3 * seed),
            keras.layers.RandomZoom(0.1, seed=3 * seed + 1),
            keras.layers.RandomRotation(0.05, seed=3 * seed + 2),
        ]

        def vary(images: Any, classes: Any) -> tuple[Any, Any]:
            for layer in layers:
                images = layer(images, training=True)
            return images, classes

        made = made.map(vary)
    return made.prefetch(2)


def measure(subject: Subject, seed: int, way: str, told: Told) -> Line:
    """One line of the results, written down: a network trained in a way, and which test images it names rightly."""
    start = time.monotonic()
    keras_on_tensorflow().backend.clear_session()
    model, notes = by_product(subject, seed) if way == PRODUCT else by_hand(subject, seed, WAYS[way])
    dataset, candidate = subject.dataset, f"{subject.network.id}, {way}, seed {seed}"
    ledger = Ledger(FOLDER / "ledger.jsonl")
    test = subject.splits.test.open(ledger, "benchmarks/training.py", subject.name, candidate, again=True)
    right = predict(model, dataset, test).argmax(axis=1) == dataset.y[test]
    line = {
        "set": subject.name,
        "seed": seed,
        "way": way,
        "network": str(subject.network),
        "macs": subject.network.macs,
        "data": dataset.identity,
        **notes,
        **answers(dataset, test, right),
        "seconds": round(time.monotonic() - start),
    }
    Ledger(LOG).append("trained", **line)
    print(f"{subject.name}, seed {seed}, {way}: {line['accuracy']:.2%}, {line['seconds']} s", flush=True)
    return line


def best_way(lines: list[Line]) -> Line:
    """Of the ways by hand the most accurate one on images held out; of equal ones that with the lowest loss there."""
    return max(lines, key=lambda line: (line["validation"], -line["validation_loss"]))


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Where the mean difference lies with probability `COVERAGE`, as far as these test images [n] can tell."""
    found = bootstrap(
        (differences,), np.mean, confidence_level=COVERAGE, n_resamples=RESAMPLES, method="percentile", batch=200,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def right_on_test(line: Line) -> Bits:
    """[n] whether each test image was named rightly."""
    tested, named = tested_and_right(line)
    return named[tested]


def summarise(name: str, lines: list[Line]) -> dict[str, Any] | None:
    """The figures of one set; None while a part of it is missing."""
    own = {(line["seed"], line["way"]): line for line in lines if line["set"] == name}
    if any((seed, way) not in own for seed in SEEDS for way in (PRODUCT, *WAYS)):
        return None
    products = [own[seed, PRODUCT] for seed in SEEDS]
    hands = [best_way([own[seed, way] for way in WAYS]) for seed in SEEDS]
    right, by_hand_right = (np.array([right_on_test(line) for line in some]) for some in (products, hands))
    differences = (right.astype(float) - by_hand_right).mean(axis=0)  # the same images for every seed
    low, high = interval(differences)
    return {
        "set": name,
        "network": products[0]["network"],
        "macs": products[0]["macs"],
        "test_images": len(differences),
        "product": [line["accuracy"] for line in products],
        "product_trained": [f"{line['augment']}, {line['steps']} steps" for line in products],
        "by_hand": [line["accuracy"] for line in hands],
        "by_hand_trained": [f"{line['way']}, {line['best_epoch']} epochs" for line in hands],
        "difference": float(differences.mean()),
        "low": low,
        "high": high,
        "passed": low > WORST,
        "seconds": [sum(own[seed, way]["seconds"] for seed in SEEDS) for way in (PRODUCT, *WAYS)],
    }


def show(rows: list[dict[str, Any]]) -> None:
    """The table and the findings."""
    heads = ("set", "MACs", "product", "by hand", "difference, points", f"{COVERAGE:.0%} interval", "")
    print("  ".join(f"{head:>18}" for head in heads))
    for row in rows:
        cells = (
            row["set"],
            f"{row['macs'] / 1e6:.2f} M",
            f"{np.mean(row['product']):.2%}",
            f"{np.mean(row['by_hand']):.2%}",
            f"{100 * row['difference']:+.2f}",
            f"{100 * row['low']:+.2f} to {100 * row['high']:+.2f}",
            "passed" if row["passed"] else "FAILED",
        )
        print("  ".join(f"{cell:>18}" for cell in cells))
    for row in rows:
        print(f"{row['set']}: product {'; '.join(row['product_trained'])}. By hand {'; '.join(row['by_hand_trained'])}")
    passed = sum(row["passed"] for row in rows)
    print(f"above {100 * WORST:g} points at the interval's lower end: {passed} of {len(rows)} sets")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(SETS), action="append", help="this set; may be given again")
    options = parser.parse_args()
    known = Ledger(LOG).entries("trained")
    workers = Processes(AT_A_TIME)
    left_out: dict[str, str] = {}
    lines: list[Line] = []
    for name in SETS:
        try:
            subject = Subject.of(name)
        except LeftOutError as error:
            left_out[name] = str(error)
            print(f"{name} is left out: {error}", flush=True)
            continue
        of = {"set": name, "network": str(subject.network), "data": subject.dataset.identity}
        own = {(line["seed"], line["way"]): line for line in known if all(line[key] == of[key] for key in of)}
        asked = itertools.product((*WAYS, PRODUCT), SEEDS) if name in (options.only or SETS) else ()
        calls = [(subject, seed, way) for way, seed in asked if (seed, way) not in own]
        outcomes = workers.run(measure, calls, lambda what, done, most: None)
        for (_, seed, way), outcome in zip(calls, outcomes, strict=True):
            if outcome.failure is not None:
                raise outcome.failure
            own[seed, way] = outcome.value
        lines += own.values()
    workers.close()
    rows = [row for name in SETS if (row := summarise(name, lines)) is not None]
    if rows:
        show(rows)
        files.write_atomically(OUT, json.dumps({"worst": WORST, "left_out": left_out, "sets": rows}, indent=1) + "\n")
    failed = [row["set"] for row in rows if not row["passed"]]
    if failed:
        sys.exit(f"worse than by hand: {', '.join(failed)}")


if __name__ == "__main__":
    main()
