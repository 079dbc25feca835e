"""What int8 costs on Fashion-MNIST, and whether a network that quantises badly is caught and repaired.

Three networks of a study's front, by default the one that `make quickstart` leaves: the fastest, the one in the middle
by latency, and the most accurate. Each is trained as `edgenas train` would, and converted to float32 and int8; counted
is what each file gets right of the 10,000 test images. Then a network whose channels are scaled apart: the same
function in float, but most of its channels vanish in int8. Prints a table and writes JSON; it resumes, and
`--only NAME` runs one.
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import edgenas.files as files
from edgenas.architecture import Architecture
from edgenas.deploy.gates import quantisation
from edgenas.deploy.quantising import Material, make_files, right
from edgenas.evaluation.finetuning import fine_tune
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.stopping import find_stop
from edgenas.evaluation.training import prepare_tensorflow, train
from edgenas.ledger import Ledger
from edgenas.model import convert, keras_on_tensorflow
from edgenas.model.builder import inputs_of
from edgenas.strategy import Prepared, reopen

OUT = Path("benchmarks/results/int8.json")
FOLDER = Path(".edgenas/benchmarks/int8").absolute()
PROJECT, STUDY = Path("quickstart"), "quickstart"
CLOSE = 0.005  # of accuracy: the promise for networks of a front
SPREAD = 128.0  # between the largest and the smallest scale of the spoiled network's channels
SPOILED_STEPS = 3_000
NAMES = (FASTEST, MIDDLE, BEST, SPOILED) = "fastest", "middle", "most accurate", "spoiled"


@dataclass(frozen=True)
class Subject:
    """A network to train, and for how many steps; None: as many as images held out tell."""

    network: Architecture
    steps: int | None


def subjects(prepared: Prepared) -> dict[str, Subject]:
    """Three networks of the front, and its smallest one with plain ReLU."""
    front = prepared.study.front
    best = front.pick("best")
    between = [point for point in front[1:] if point.id != best.id]
    chosen = {FASTEST: front[0], MIDDLE: between[len(between) // 2], BEST: best}
    found = {name: Subject(point.architecture, prepared.settings.final.steps) for name, point in chosen.items()}
    # ReLU alone lets a channel's scale pass: relu(s x) = s relu(x). The gate of squeeze-and-excitation would see it.
    small = min((point.architecture for point in front), key=lambda network: network.macs)
    plain = str(small).replace("relu6", "relu").replace("_se0.25", "")
    return found | {SPOILED: Subject(Architecture.parse(plain), SPOILED_STEPS)}


def spoil(model: Any, spread: float, seed: int = 0) -> Any:
    """Scale the channels inside a network's blocks apart, in place, without changing what it computes.

    Each normalisation that feeds one convolution through a ReLU gets its channels times s, the convolution's weights
    are divided by s; s is drawn between 1 / spread and 1. In int8 all channels of a tensor share one scale, so the
    small ones keep few of their 255 levels, or none.
    """
    layers = keras_on_tensorflow().layers
    after: dict[int, list[Any]] = {}
    for layer in model.layers:
        for tensor in inputs_of(layer):
            after.setdefault(id(tensor), []).append(layer)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if not isinstance(layer, layers.BatchNormalization):
            continue
        (activation,) = after.get(id(layer.output), [None])[:1]
        users = after.get(id(activation.output), []) if isinstance(activation, layers.Activation) else []
        if len(users) == 1 and isinstance(users[0], layers.Conv2D | layers.DepthwiseConv2D):
            gamma, beta, *statistics = layer.get_weights()
            scales = spread ** -rng.random(len(gamma))
            layer.set_weights([gamma * scales, beta * scales, *statistics])
            (kernel,) = users[0].get_weights()
            users[0].set_weights([kernel / scales[:, None]])
    return model


def how(subject: Subject, prepared: Prepared, material: Material, folder: Path) -> tuple[int, Recipe]:
    """How many steps a network is trained for, and by which recipe, as `edgenas train` has it."""
    settings = prepared.settings
    if subject.steps is not None:
        return subject.steps, dataclasses.replace(settings.recipe, augment=settings.recipe.augment or "light")
    stop = find_stop(
        subject.network, prepared.dataset, prepared.splits.rounds, material.train_on, settings.recipe, settings.seed,
        most_steps=settings.final.most_steps, checkpoint=folder / "stop",
        told=lambda what, done, most: print(f"{what}: {done} of at most {most}", flush=True),
    )  # fmt: skip
    return stop.steps, dataclasses.replace(settings.recipe, augment=stop.grade)


def measure(name: str, subject: Subject, prepared: Prepared) -> dict[str, Any]:
    """One line of the results."""
    start = time.monotonic()
    prepare_tensorflow()
    dataset, splits, settings = prepared.dataset, prepared.splits, prepared.settings
    seed, folder = settings.seed, FOLDER / subject.network.id
    material = Material(dataset, splits, settings.recipe, seed, checkpoint=folder / "fine-tuning")
    steps, recipe = how(subject, prepared, material, folder)
    material = dataclasses.replace(material, recipe=recipe)

    def say(done: int, values: dict[str, float]) -> None:
        print(f"{name}: step {done}, accuracy {values['accuracy']:.4f}, {time.monotonic() - start:.0f} s", flush=True)

    model, _ = train(
        subject.network, dataset, material.train_on, recipe, steps, seed, checkpoint=folder / "training", on_round=say
    )
    if name == SPOILED:
        spoil(model, SPREAD)
    made = make_files(model, "int8", material, on_round=say)
    made_of = {"converted": convert(model, "int8", material.calibration), "repaired": made.content}
    if name == SPOILED:
        alone = fine_tune(
            model, dataset, material.train_on, material.calibration, recipe, seed,
            equalised=False, checkpoint=folder / "fine-tuning-alone", on_round=say,
        )  # fmt: skip
        made_of["fine-tuned alone"] = convert(alone, "int8", material.calibration)
    ledger = Ledger(FOLDER / "ledger.jsonl")
    test = splits.test.open(ledger, "benchmarks/int8.py", name, subject.network.id)
    found = {}
    for what, images in (("acceptance", splits.acceptance), ("test", test)):
        before = right(made.reference, dataset, images)
        for state, content in made_of.items():
            gate = quantisation(before, right(content, dataset, images))
            found[f"{what}_{state}"] = {"passed": gate.passed, **gate.figures}
    return {
        "name": name,
        "network": str(subject.network),
        "macs": subject.network.macs,
        "parameters": subject.network.parameters,
        "asked_steps": subject.steps,
        "steps": steps,
        "augment": recipe.augment,
        "repair": files.as_mapping(made.repair),
        "bytes": [len(made.reference), len(made.content)],
        "seconds": round(time.monotonic() - start),
        **found,
    }


def show(lines: list[dict[str, Any]]) -> None:
    """The table and the findings."""
    heads = ("network", "MACs", "float32", "int8", "loss, points", "95%", "gate on acceptance")
    print("  ".join(f"{head:>25}" for head in heads))
    for line in lines:
        states = [key.removeprefix("test_") for key in line if key.startswith("test_")]
        for state in states if line["repair"]["steps"] else states[:1]:
            test, gate = line[f"test_{state}"], line[f"acceptance_{state}"]
            cells = (
                f"{line['name']}, {state}",
                f"{line['macs'] / 1e6:.2f} M",
                f"{test['float32_accuracy']:.2%}",
                f"{test['int8_accuracy']:.2%}",
                f"{100 * test['loss']:.2f}",
                f"{100 * test['loss_low']:.2f} to {100 * test['loss_high']:.2f}",
                f"{'passed' if gate['passed'] else 'FAILED'} ({100 * gate['loss']:.2f})",
            )
            print("  ".join(f"{cell:>25}" for cell in cells))
    fronts = [line["test_repaired"]["loss"] <= CLOSE for line in lines if line["name"] != SPOILED]
    if len(fronts) == 3:
        print(f"within {100 * CLOSE:g} points of float32: {sum(fronts)} of 3 networks")
    for line in lines:
        if line["name"] == SPOILED:
            passed = {key.removeprefix("acceptance_"): line[key]["passed"] for key in line if "acceptance_" in key}
            told = [f"{state}: {'passes' if good else 'is refused by'} the gate" for state, good in passed.items()]
            print(f"the spoiled network, {'; '.join(told)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=NAMES, action="append", help="this network; may be given again")
    parser.add_argument("--project", type=Path, default=PROJECT, help="the folder with the study")
    parser.add_argument("--study", default=STUDY)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    if not options.project.is_dir():
        parser.error(f"there is no folder {options.project}: `make quickstart` makes one, or name yours with --project")
    out = options.out.absolute()
    log = out.with_suffix(".jsonl")
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    with contextlib.chdir(options.project):
        prepared = reopen(options.study)
        known = subjects(prepared)
        done = {(line["name"], line["network"], line["asked_steps"]) for line in lines}
        for name in options.only or NAMES:
            subject = known[name]
            if (name, str(subject.network), subject.steps) not in done:
                lines.append(measure(name, subject, prepared))
                with log.open("a") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    lines = [line for line in lines if line["network"] == str(known[line["name"]].network)]
    lines.sort(key=lambda line: NAMES.index(line["name"]))
    show(lines)
    out.write_text(json.dumps({"close": CLOSE, "spread": SPREAD, "networks": lines}, indent=1) + "\n")
    far = [line["name"] for line in lines if line["name"] != SPOILED and line["test_repaired"]["loss"] > CLOSE]
    if far:
        sys.exit(f"further than {100 * CLOSE:g} points from float32: {', '.join(far)}")


if __name__ == "__main__":
    main()
