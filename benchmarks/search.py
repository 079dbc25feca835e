"""What does a search of a few minutes ship? Asked on the small data sets, on this machine (device `local`, int8).

For each set there is one limit on latency, which 40% of the space's networks keep, and for each of three study seeds a
search of `--search-minutes`. Three kinds of network are then trained by the same recipe for the same number of steps
(found once a set and seed, with the hand-made network): what the search ships; the hand-made network that did best on
the validation images; and, once a set, six networks drawn at random within the limit. Of their int8 files is counted
what they get right of the test images, and how long an inference takes beside what was predicted. Prints a table and
what the search brings over all sets together, with 95% intervals, and writes JSON.

It works in .edgenas/benchmarks/search, and resumes: each table, search and training is one line of the results.
"""

import argparse
import contextlib
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgenas.files as files
from benchmarks.small_sets import SETS, LeftOutError, SmallSet, answers, tested_and_right
from edgenas.architecture import Architecture
from edgenas.deploy.quantising import Material, make_files, right
from edgenas.device import Device
from edgenas.errors import DeviceError, InputError
from edgenas.evaluation.data import DEFAULT_CACHE
from edgenas.evaluation.recipe import Recipe
from edgenas.evaluation.stopping import find_stop
from edgenas.evaluation.training import prepare_tensorflow, train
from edgenas.latency.profiling.measuring import measure_file
from edgenas.latency.profiling.planning import FEWER_NETWORKS, plan_profile
from edgenas.latency.profiling.profiler import profile
from edgenas.latency.table import LatencyTable
from edgenas.latency.table.finding import find_table
from edgenas.ledger import Ledger
from edgenas.model import keras_on_tensorflow
from edgenas.space import MobileSpace
from edgenas.strategy import Front, Limits, Point, Prepared, Settings, TrialReport, load_inputs, prepare, run
from edgenas.workflow.quickstart import SHARE_KEPT

OUT = Path("benchmarks/results/search.json").absolute()
FOLDER = Path(".edgenas/benchmarks/search").absolute()
SEEDS = (0, 1, 2)
DRAWN = 6  # networks at random
FIRST_TRIALS = Settings.trials  # of a study; where there is time for more, twice as many, and so on
TARGETS = {"hand-made": -0.005, "random": 0.0}  # the lower end of "shipped less these" is to be above it
COVERAGE, RESAMPLES, AT_ONCE = 0.95, 2_000, 100
WHATS = (LIMIT, SEARCH, STOP, HAND_MADE, SHIPPED, RANDOM) = (
    "limit", "search", "stop", "hand-made", "shipped", "random",
)  # fmt: skip
# How long a unit takes, by what is done in it, until one was done.
KIND = {LIMIT: "profile", STOP: "stop", HAND_MADE: "training", SHIPPED: "training", RANDOM: "training"}
GUESSES_S = {"profile": 180.0, "stop": 150.0, "training": 90.0}
STARTING_S = 20  # before and after the minutes of a search

Line = dict[str, Any]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Unit:
    """What is done at one go.

    Attributes:
        set, what: the data set's name, and one of `WHATS`.
        seed: of the study; of a network at random its number.
    """

    set: str
    what: str
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.set}, {self.what}" + ("" if self.what == LIMIT else f" {self.seed}")


def units(name: str) -> list[Unit]:
    """All of a set, each after those that it needs."""
    made = [Unit(name, LIMIT)]
    made += [Unit(name, what, seed) for seed in SEEDS for what in (SEARCH, STOP, HAND_MADE, SHIPPED)]
    return made + [Unit(name, RANDOM, number) for number in range(DRAWN)]


def done_units(log: Ledger, minutes: float) -> dict[Unit, Line]:
    """What is in the results of searches of so many minutes."""
    lines = [line for line in log.entries("done") if line["search_minutes"] == minutes]
    return {Unit(line["set"], line["what"], line["seed"]): line for line in lines}


# How long it takes


def seconds_of(unit: Unit, done: Mapping[Unit, Line], minutes: float) -> tuple[float, str]:
    """How long a unit will take, and by what that is known."""
    if unit.what == SEARCH:
        return 60 * minutes + STARTING_S, "as asked"
    alike = {
        other: line["seconds"]
        for other, line in done.items()
        if KIND.get(other.what) == KIND.get(unit.what) and "same_as" not in line
    }
    own = [seconds for other, seconds in alike.items() if other.set == unit.set]
    if alike:
        return float(np.mean(own or [*alike.values()])), f"{len(own)} done" if own else "other sets"
    return GUESSES_S[KIND[unit.what]], "a guess"


def show_plan(left: Sequence[Unit], done: Mapping[Unit, Line], minutes: float) -> None:
    """What is left, and how long it will take."""
    heads = ("set", "what", "left", "seconds each", "by")
    print("  ".join(f"{head:>14}" for head in heads))
    for name, what in dict.fromkeys((unit.set, unit.what) for unit in left):
        some = [unit for unit in left if (unit.set, unit.what) == (name, what)]
        each, known_by = seconds_of(some[0], done, minutes)
        cells = (name, what, str(len(some)), f"{each:.0f}", known_by)
        print("  ".join(f"{cell:>14}" for cell in cells))
    print(f"{len(left)} units left, about {hours(left, done, minutes)}")


def hours(left: Sequence[Unit], done: Mapping[Unit, Line], minutes: float) -> str:
    """How long they will take together."""
    return f"{sum(seconds_of(unit, done, minutes)[0] for unit in left) / 3600:.1f} hours"


# The work on one set


class TimeIsUpError(Exception):
    """A search has had its minutes."""


def searched_s(entries: Sequence[Mapping[str, Any]]) -> float:
    """How long a study was searched, by its ledger: each time from its beginning to the last thing that it noted."""
    total, began = 0.0, None
    last = began
    for entry in entries:
        if entry["event"] not in ("search_began", "fidelity_chosen", "trial"):
            continue
        moment = datetime.fromisoformat(entry["time"])
        if entry["event"] == "search_began":
            total += (last - began).total_seconds() if began and last else 0.0
            began = moment
        last = moment
    return total + ((last - began).total_seconds() if began and last else 0.0)


@dataclass(frozen=True)
class Work:
    """One set, and what was done on it so far.

    Attributes:
        small: the set.
        minutes: of a search.
        done: the lines of all units, also of other sets.
    """

    small: SmallSet
    minutes: float
    done: dict[Unit, Line]

    def line(self, what: str, seed: int = 0) -> Line:
        """What was found before."""
        return self.done[Unit(self.small.name, what, seed)]

    def settings(self, seed: int) -> Settings:
        """Of a study: the product's own, but for the limit."""
        return Settings(
            study=f"{self.small.name}-{self.minutes:g}-minutes-{seed}",
            data=self.small.source,
            device="local",
            table=self.line(LIMIT)["table"],
            space="tiny",
            input_shape=self.small.input_shape,
            trials=FIRST_TRIALS,
            seed=seed,
            limits=Limits(max_latency_ms=self.line(LIMIT)["limit_ms"]),
        )

    def limit(self, unit: Unit) -> Line:
        """This machine's table, made where it is not there, and the limit on latency."""
        classes = self.small.load(DEFAULT_CACHE).classes
        device, space = Device.load("local"), MobileSpace("tiny", self.small.input_shape, classes)
        try:
            name, table = find_table(device, space, "int8", 1)
        except InputError:
            print(f"{unit}: profiling ...", flush=True)
            profile(device, space, "int8", plan=plan_profile(space, networks=FEWER_NETWORKS))
            name, table = find_table(device, space, "int8", 1)
        return {"table": name, "checksum": table.checksum, "limit_ms": limit_ms(space, table)}

    def search(self, unit: Unit) -> Line:
        """A search until its time is up: what it ships, and the best network drawn by hand."""
        settings, limit_s = self.settings(unit.seed), 60 * self.minutes
        prepared = prepare(settings)

        def on_trial(report: TrialReport) -> None:
            used = searched_s(prepared.study.ledger.entries())
            accuracy = "failed" if report.point is None else f"{report.point.accuracy:.2%}"
            print(f"{unit}: trial {report.number}, {accuracy}, {used:.0f} of {limit_s:.0f} s", flush=True)
            if used >= limit_s:
                raise TimeIsUpError

        with contextlib.suppress(TimeIsUpError):
            while searched_s(prepared.study.ledger.entries()) < limit_s:
                run(prepared, on_trial, lambda sentence: print(f"{unit}: {sentence}", flush=True))
                # The number of trials sets the sampler: so it is what a user would ask for, and then more.
                settings = dataclasses.replace(settings, trials=2 * settings.trials)
                prepared = prepare(settings)
        return searched(prepared)

    def stop(self, unit: Unit) -> Line:
        """How long the networks of a study seed are trained, and how strongly their images are varied."""
        inputs = load_inputs(self.settings(unit.seed))
        train_on = Material(inputs.dataset, inputs.splits, Recipe(), unit.seed).train_on
        network = Architecture.parse(self.line(SEARCH, unit.seed)[HAND_MADE]["notation"])
        folder = FOLDER / "checkpoints" / unit.set / f"stop-{self.minutes:g}-{unit.seed}"
        stop = find_stop(
            network, inputs.dataset, inputs.splits.rounds, train_on, Recipe(), unit.seed,
            checkpoint=folder, told=lambda what, done, most: progress(unit, what, done),
        )  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
        found = {"steps": stop.steps, "augment": stop.grade, "converged": stop.converged, "learned": stop.learned}
        return {"network": str(network), **found}

    def hand_made(self, unit: Unit) -> Line:
        """The best network drawn by hand."""
        return self._trained(unit, self.line(SEARCH, unit.seed)[HAND_MADE], unit.seed)

    def shipped(self, unit: Unit) -> Line:
        """What the search ships; where that was drawn by hand it is trained already."""
        point = self.line(SEARCH, unit.seed)[SHIPPED]
        by_hand = self.line(HAND_MADE, unit.seed)
        if point["notation"] == by_hand["network"]:
            return {key: value for key, value in by_hand.items() if key not in _OF_UNIT} | {"same_as": HAND_MADE}
        return self._trained(unit, point, unit.seed)

    def random(self, unit: Unit) -> Line:
        """One of the networks that were drawn at random; trained with the first seed."""
        free = load_inputs(self.settings(SEEDS[0])).free
        codes = free.space.canonical(free.space.sample(np.random.default_rng(1), 2_000))
        kept = list(dict.fromkeys(map(tuple, codes[free.excess(codes) <= 0])))
        code = np.array(kept[unit.seed])
        network = free.space.decode(free.space.values(code))
        point = {"id": network.id, "notation": str(network), "latency_ms": free.describe(code)["latency_ms"]}
        return self._trained(unit, point, SEEDS[0])

    def _trained(self, unit: Unit, point: Mapping[str, Any], seed: int) -> Line:
        """A network trained for good, its int8 file tested and measured."""
        inputs, stop = load_inputs(self.settings(seed)), self.line(STOP, seed)
        dataset, network = inputs.dataset, Architecture.parse(point["notation"])
        recipe = dataclasses.replace(Recipe(), augment=stop["augment"])
        folder = FOLDER / "checkpoints" / unit.set / f"{unit.what}-{self.minutes:g}-{unit.seed}-{network.id}"
        material = Material(dataset, inputs.splits, recipe, seed, checkpoint=folder / "fine-tuning")
        model, _ = train(
            network, dataset, material.train_on, recipe, stop["steps"], seed,
            checkpoint=folder / "last", on_round=lambda done, values: progress(unit, "training", done),
        )  # fmt: skip
        made = make_files(model, "int8", material)
        path = FOLDER / "files" / unit.set / f"{network.id}-{seed}.tflite"
        files.write_atomically(path, made.content)
        ledger = Ledger(FOLDER / "ledger.jsonl")
        test = inputs.splits.test.open(ledger, "benchmarks/search.py", unit.set, f"{unit}, {network.id}", again=True)
        shutil.rmtree(folder, ignore_errors=True)
        return {
            "network": str(network),
            "macs": network.macs,
            "repair": files.as_mapping(made.repair),
            **answers(dataset, test, right(made.content, dataset, test)),
            "predicted_ms": point["latency_ms"],
            "measured": measured(path, inputs.device),
        }


_OF_UNIT = ("event", "time", "set", "what", "seed", "search_minutes", "seconds")
DO: dict[str, Callable[[Work, Unit], Line]] = {
    LIMIT: Work.limit,
    SEARCH: Work.search,
    STOP: Work.stop,
    HAND_MADE: Work.hand_made,
    SHIPPED: Work.shipped,
    RANDOM: Work.random,
}


def limit_ms(space: MobileSpace, table: LatencyTable) -> float:
    """What `SHARE_KEPT` of the networks of a space keep, as `edgenas quickstart` has it."""
    drawn = space.sample(np.random.default_rng(0), 2_000)
    ends = table.estimate_codes_ms(space, drawn) * table.interval_factor()
    return float(f"{np.quantile(ends, SHARE_KEPT):.2g}")


def searched(prepared: Prepared) -> Line:
    """What a study found."""
    study = prepared.study
    by_hand = Front([point for point in study.points if point.name])
    counts = study.counts()
    return {
        "searched_s": round(searched_s(study.ledger.entries())),
        "trials": counts["complete"],
        "failed": counts["failed"],
        "steps": study.ledger.entries("fidelity_chosen")[-1]["steps"],
        SHIPPED: noted(study.front.pick("best")),
        HAND_MADE: noted(by_hand.pick("best")),
    }


def noted(point: Point) -> dict[str, Any]:
    """What is kept of a point."""
    kept = ("id", "notation", "name", "accuracy", "latency_ms", "trial")
    return {key: getattr(point, key) for key in kept}


def measured(path: Path, device: Device) -> dict[str, Any]:
    """How long an inference takes, or why that cannot be said."""
    try:
        found = measure_file(path, device)
    except DeviceError as error:
        return {"error": str(error)}
    return {**found["latency_ms"], "steadiness": found["steadiness"]}


def progress(unit: Unit, what: str, done: int) -> None:
    """A line now and then."""
    if done % 1000 == 0:
        print(f"{unit}: {what}, step {done}", flush=True)


# What was found


def accuracies(lines: Sequence[Line], weights: Values) -> Values:
    """[draws, networks] accuracy of each network under each weighting [draws, images of the set] of the images."""
    tested, named = (np.array(rows, float).T for rows in zip(*map(tested_and_right, lines), strict=True))
    found: Values = (weights @ named) / (weights @ tested)
    return found


def resample(by_what: Mapping[str, Sequence[Line]], rng: np.random.Generator) -> dict[str, Values]:
    """What -> [RESAMPLES] the mean accuracy of shipped, hand-made and random networks of one set.

    Each time the seeds are drawn anew, the random networks as well, and the images that were tested: the same seeds and
    images for shipped and hand-made, the same images for all.
    """
    shown = np.any([tested_and_right(line)[0] for lines in by_what.values() for line in lines], axis=0)
    count = int(shown.sum())
    seeds, others = (rng.integers(0, many, (RESAMPLES, many)) for many in (len(SEEDS), DRAWN))
    chosen = {SHIPPED: seeds, HAND_MADE: seeds, RANDOM: others}
    parts: dict[str, list[Values]] = {what: [] for what in by_what}
    for start in range(0, RESAMPLES, AT_ONCE):
        weights = np.zeros((min(AT_ONCE, RESAMPLES - start), len(shown)))
        weights[:, shown] = rng.multinomial(count, np.full(count, 1 / count), size=len(weights))
        for what, lines in by_what.items():
            found = accuracies(lines, weights)
            rows = chosen[what][start : start + AT_ONCE]
            parts[what].append(np.take_along_axis(found, rows, axis=1).mean(axis=1))
    return {what: np.concatenate(some) for what, some in parts.items()}


def ends(values: Values) -> list[float]:
    """The interval of coverage `COVERAGE`."""
    rest = (1 - COVERAGE) / 2
    return [float(end) for end in np.quantile(values, [rest, 1 - rest])]


def summarise(name: str, done: Mapping[Unit, Line]) -> tuple[dict[str, Any], dict[str, Values]] | None:
    """The figures of one set, and its resampled accuracies; None while a part of it is missing."""
    if any(unit not in done for unit in units(name)):
        return None
    by_what = {
        what: [done[Unit(name, what, seed)] for seed in numbers]
        for what, numbers in ((SHIPPED, SEEDS), (HAND_MADE, SEEDS), (RANDOM, range(DRAWN)))
    }
    drawn = resample(by_what, np.random.default_rng([0, list(SETS).index(name)]))
    searches = [done[Unit(name, SEARCH, seed)] for seed in SEEDS]
    row = {
        "set": name,
        "limit_ms": done[Unit(name, LIMIT)]["limit_ms"],
        "trials": [line["trials"] for line in searches],
        "candidate_steps": [line["steps"] for line in searches],
        "final_steps": [done[Unit(name, STOP, seed)]["steps"] for seed in SEEDS],
        "shipped_hand_made": [line[SHIPPED]["name"] for line in searches if line[SHIPPED]["name"]],
    }
    for what, lines in by_what.items():
        row[what] = {
            "accuracies": [line["accuracy"] for line in lines],
            "accuracy": float(np.mean([line["accuracy"] for line in lines])),
            "interval": ends(drawn[what]),
            "predicted_ms": [line["predicted_ms"] for line in lines],
            "measured_ms": [line["measured"].get("median") for line in lines],
        }
    return row, drawn


def together(rows: Sequence[dict[str, Any]], drawn: Sequence[dict[str, Values]]) -> dict[str, Any]:
    """Shipped less hand-made, and shipped less random: the mean over all sets, and where it lies."""
    found = {}
    for other, least in TARGETS.items():
        low, high = ends(np.mean([values[SHIPPED] - values[other] for values in drawn], axis=0))
        mean = float(np.mean([row[SHIPPED]["accuracy"] - row[other]["accuracy"] for row in rows]))
        found[other] = {"difference": mean, "low": low, "high": high, "least": least, "met": low > least}
    return found


def show(rows: Sequence[dict[str, Any]], found: Mapping[str, Any]) -> None:
    """The table and the findings."""
    heads = ("set", "limit ms", "shipped", "95%", "ms (predicted)", "hand-made", "95%", "ms (predicted)")
    print("  ".join(f"{head:>16}" for head in (*heads, "random", "range")))
    for row in rows:
        cells = [row["set"], f"{row['limit_ms']:g}"]
        for what in (SHIPPED, HAND_MADE):
            low, high = row[what]["interval"]
            cells += [f"{row[what]['accuracy']:.2%}", f"{low:.1%} to {high:.1%}", times(row[what])]
        random = row[RANDOM]["accuracies"]
        cells += [f"{row[RANDOM]['accuracy']:.2%}", f"{min(random):.1%} to {max(random):.1%}"]
        print("  ".join(f"{cell:>16}" for cell in cells))
    for row in rows:
        by_hand = f"{len(row['shipped_hand_made'])} of {len(SEEDS)} shipped networks were drawn by hand"
        print(f"{row['set']}: {', '.join(map(str, row['trials']))} trials; {by_hand}")
    for other, each in found.items():
        low, high = each["low"], each["high"]
        print(
            f"shipped less {other}, {len(rows)} of {len(SETS)} sets: {100 * each['difference']:+.2f} points "
            f"({100 * low:+.2f} to {100 * high:+.2f}); the lower end is {'' if each['met'] else 'NOT '}above "
            f"{100 * each['least']:g}"
        )


def times(figures: Mapping[str, Any]) -> str:
    """Mean measured and predicted latency, ms."""
    measured_ms = [each for each in figures["measured_ms"] if each is not None]
    found = f"{np.mean(measured_ms):.3f}" if measured_ms else "unsteady"
    return f"{found} ({np.mean(figures['predicted_ms']):.3f})"


def work_through(left: Sequence[Unit], done: dict[Unit, Line], log: Ledger, options: argparse.Namespace) -> None:
    """Do what is left, until the time is up."""
    start = time.monotonic()
    prepare_tensorflow()
    for place, unit in enumerate(left):
        if time.monotonic() - start >= 60 * options.minutes:
            rest = left[place:]
            about = hours(rest, done, options.search_minutes)
            print(
                f"{options.minutes:g} minutes are up: {len(rest)} units left, about {about}; run it again", flush=True
            )
            return
        keras_on_tensorflow().backend.clear_session()
        began = time.monotonic()
        found = DO[unit.what](Work(SETS[unit.set], options.search_minutes, done), unit)
        seconds = round(time.monotonic() - began)
        key = {"set": unit.set, "what": unit.what, "seed": unit.seed, "search_minutes": options.search_minutes}
        done[unit] = {**found, **key, "seconds": seconds}
        log.append("done", **done[unit])
        accuracy = f"{found['accuracy']:.2%}, " if "accuracy" in found else ""
        print(f"{unit}: {accuracy}{seconds} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(SETS), action="append", help="this set; may be given again")
    parser.add_argument("--search-minutes", type=float, default=6.0, help="of each search (6)")
    parser.add_argument("--minutes", type=float, default=100.0, help="after so long nothing new is begun (100)")
    parser.add_argument("--plan", action="store_true", help="print what is left and how long it will take")
    options = parser.parse_args()
    log = Ledger(OUT.with_suffix(".jsonl"))
    done, left_out, left = done_units(log, options.search_minutes), {}, []
    for name in options.only or SETS:
        try:
            SETS[name].ready()
        except LeftOutError as error:
            left_out[name] = str(error)
            print(f"{name} is left out: {error}", flush=True)
            continue
        left += [unit for unit in units(name) if unit not in done]
    if options.plan:
        show_plan(left, done, options.search_minutes)
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(FOLDER):
        work_through(left, done, log, options)
    complete = [each for name in SETS if (each := summarise(name, done)) is not None]
    if not complete:
        return
    rows, drawn = (list(part) for part in zip(*complete, strict=True))
    found = together(rows, drawn)
    show(rows, found)
    result = {"search_minutes": options.search_minutes, "left_out": left_out, "shipped_less": found, "sets": rows}
    files.write_atomically(OUT, json.dumps(result, indent=1) + "\n")
    missed = [other for other, each in found.items() if not each["met"]]
    if missed and len(rows) == len(SETS):
        sys.exit(f"shipped less {' and '.join(missed)}: too low")


if __name__ == "__main__":
    main()
