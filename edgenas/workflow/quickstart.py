"""The whole main job on this machine, as a first look: profile, search, train, ship."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgenas.deploy import Bundle, Shipped
from edgenas.device import Device
from edgenas.errors import EdgeNASError, InputError
from edgenas.evaluation.data import fetch_fashion_mnist, find_fashion_mnist
from edgenas.evaluation.recipe import Fidelity, Recipe
from edgenas.latency.profiling.bench import Progress
from edgenas.latency.profiling.planning import FEWER_NETWORKS, plan_profile
from edgenas.latency.profiling.profiler import profile
from edgenas.latency.table import LatencyTable
from edgenas.latency.table.finding import find_table
from edgenas.report import draw_front
from edgenas.space import MobileSpace
from edgenas.strategy import Front, Limits, Point, Prepared, Settings, TrialReport, load_settings, prepare, run
from edgenas.workflow.final import ship_bundle, train

STUDY = "quickstart"
TRIALS = 12
# The limit on latency is where this share of the space's networks keeps it.
SHARE_KEPT = 0.4
# Of a candidate: enough to be far from guessing on Fashion-MNIST.
STEPS = 75
# The last training gets as many steps as fit into about this time on one core, by what the network's trial took; it has
# all cores.
TRAINING_S = 240
# A trial takes its steps (and its validation images, at a third of a training image's cost) in its seconds, less those
# that building and tracing take.
STARTING_S = 6


@dataclasses.dataclass(frozen=True)
class Told:
    """What quickstart found, for printing.

    Attributes:
        data: the data set that was there.
        table: of this machine.
        front, picture: of the search.
        bundle, shipped: what was trained, and where it runs.
    """

    data: str
    table: LatencyTable
    front: Front
    picture: Path
    bundle: Bundle
    shipped: Shipped


def quickstart(
    say: Callable[[str], None], progress: Progress, on_trial: Callable[[TrialReport], None] | None = None
) -> Told:
    """Profile this machine, search, train, ship; what is done already is not done again.

    Args:
        say: told each step in a sentence.
        progress: called with what is done, how much of how much.
        on_trial: called after each trial of the search.
    """
    data, sides = _find_data(say)
    device = Device.load("local")
    space = MobileSpace("tiny", (sides, sides, 1), classes=10)
    try:
        _, table = find_table(device, space, "int8", 1)
        say("1/4 profile: this machine's latency table is there already")
    except InputError:
        say(f"1/4 profile: every layer of the space 'tiny' at {sides}x{sides}x1 (int8, one thread) on device 'local'")
        table = profile(device, space, "int8", plan=plan_profile(space, networks=FEWER_NETWORKS), progress=progress)
    settings = _settings(data, sides, space, table)
    say(f"2/4 search: {TRIALS} networks predicted to run within {settings.limits.max_latency_ms:g} ms")
    prepared = prepare(settings)
    front = run(prepared, on_trial)
    picture = Path("front.png")
    points = prepared.study.points
    draw_front(front, points, f"{data} on this machine", picture, settings.limits.max_latency_ms)
    point = front.pick("best")
    say(f"3/4 train: {point.id}, the most accurate of the front, on train and validation")
    bundle = train(STUDY, point.id, steps=_steps(prepared, point), progress=progress)
    say("4/4 ship: to device 'local', checked and measured there, then made live")
    shipped = ship_bundle(bundle.folder, "local", STUDY, progress=progress)
    return Told(data, table, front, picture, bundle, shipped)


def _steps(prepared: Prepared, point: Point) -> int | None:
    """How many steps fit into the time, on Fashion-MNIST; None on little data, where held-out images tell."""
    splits, steps = prepared.splits, prepared.settings.fidelity.steps
    if steps is None:
        return None
    batch = prepared.settings.recipe.batch_of(len(splits.train))
    step_s = max(point.seconds - STARTING_S, 1) / (steps + len(splits.validation) / batch / 3)
    a_pass = (len(splits.train) + len(splits.validation)) / batch
    return int(np.clip(TRAINING_S / step_s, 2 * a_pass, 9 * a_pass))


def _find_data(say: Callable[[str], None]) -> tuple[str, int]:
    """A data set's name and the side of its images."""
    try:
        find_fashion_mnist()
    except InputError:
        say("Fashion-MNIST is not on this machine; asking Keras' loader for it over the network")
        try:
            fetch_fashion_mnist()
        except EdgeNASError as error:
            say(f"That failed ({error}).")
            say("USING 'digits' INSTEAD: 1,797 images of 8x8 that come with scikit-learn. Its figures are easy ones.")
            return "digits", 16
    return "fashion-mnist", 28


def _settings(data: str, sides: int, space: MobileSpace, table: LatencyTable) -> Settings:
    """The study that was begun, or a new one whose limit suits this machine."""
    try:
        return load_settings(STUDY)
    except InputError:
        drawn = space.sample(np.random.default_rng(0), 2000)
        ends = table.estimate_codes_ms(space, drawn) * table.interval_factor()
        limit = float(f"{np.quantile(ends, SHARE_KEPT):.2g}")
        fields: dict[str, Any] = {}
        if data == "fashion-mnist":
            fields = {"fidelity": Fidelity(steps=STEPS), "recipe": Recipe(batch_size=64)}
        return Settings(
            study=STUDY,
            data=data,
            device="local",
            table="",
            space=space.name,
            input_shape=(sides, sides, 1),
            policy="fit",
            strategy="nsga2",
            trials=TRIALS,
            limits=Limits(max_latency_ms=limit),
            **fields,
        )
