"""The search: from settings to a front."""

import dataclasses
from collections.abc import Callable

import edgenas.files as files
from edgenas.device import Device
from edgenas.evaluation.data import DEFAULT_CACHE, Dataset, Splits, load_dataset, split
from edgenas.evaluation.evaluator import TrainEvaluator
from edgenas.latency.table import LatencyTable
from edgenas.latency.table.finding import find_table
from edgenas.space import MobileSpace
from edgenas.strategy.fidelity import Say
from edgenas.strategy.front import Front
from edgenas.strategy.objectives import FreeObjectives
from edgenas.strategy.settings import Limits, Settings, begin, load_settings, refuse_other
from edgenas.strategy.study import Study, TrialReport


@dataclasses.dataclass(frozen=True)
class Inputs:
    """All that a study needs, loaded.

    Attributes:
        settings: with the data's and the table's identity.
        dataset, splits: its data.
        table: its latency table.
        device: its device.
        free: what costs nothing to know of a candidate.
    """

    settings: Settings
    dataset: Dataset
    splits: Splits
    table: LatencyTable
    device: Device
    free: FreeObjectives


@dataclasses.dataclass(frozen=True)
class Prepared(Inputs):
    """A study that was begun, and all that it needs.

    Attributes:
        study: the study itself.
    """

    study: Study


def prepare(settings: Settings) -> Prepared:
    """Load what a study needs; begin it, or check that it was begun with the same settings, data and table.

    Raises:
        InputError: as in `load_inputs`.
    """
    inputs = load_inputs(settings)
    begin(inputs.settings)
    return Prepared(**vars(inputs), study=Study(inputs.settings, inputs.free.space, inputs.free))


def load_inputs(settings: Settings) -> Inputs:
    """Load what a study needs, and begin no study; decoded images are kept.

    Raises:
        InputError: bad data, no fitting table, a name that is taken, limits that no network keeps.
    """
    device = Device.load(settings.device)
    dataset = load_dataset(
        settings.data,
        settings.input_shape,
        settings.policy,
        cache=DEFAULT_CACHE,
        group_pattern=settings.group_pattern,
    )
    space = MobileSpace(settings.space, settings.input_shape, dataset.classes, settings.activation)
    name, table = find_table(device, space, settings.precision, settings.threads, settings.table or None)
    settings = dataclasses.replace(
        settings,
        table=name,
        limits=_with_device(settings.limits, device),
        data_identity=dataset.identity,
        table_checksum=table.checksum,
    )
    free = FreeObjectives(space, table, settings.precision, settings.limits)
    free.anchor  # noqa: B018  raises where no network keeps the limits
    refuse_other(settings)
    return Inputs(settings, dataset, split(dataset, settings.seed), table, device, free)


def search(
    settings: Settings,
    on_trial: Callable[[TrialReport], None] | None = None,
    say: Say = lambda sentence: None,
) -> Front:
    """Run a study, or go on with one that was broken off, and return its front.

    Args:
        settings: what to search for.
        on_trial: called after each trial.
        say: told what is to be known meanwhile, in sentences.

    Raises:
        InputError: as in `prepare`.
        CheckFailedError: as in `run`.
    """
    return run(prepare(settings), on_trial, say)


def run(
    prepared: Prepared,
    on_trial: Callable[[TrialReport], None] | None = None,
    say: Say = lambda sentence: None,
) -> Front:
    """Evaluate until the study is complete.

    Raises:
        CheckFailedError: candidates do no better than guessing.
    """
    settings = prepared.settings
    evaluator = TrainEvaluator(prepared.dataset, prepared.splits, settings.fidelity, settings.seed)
    try:
        return prepared.study.run(evaluator, on_trial, say)
    finally:
        evaluator.close()


def reopen(name: str) -> Prepared:
    """A study that was begun, with its data and table as they were then.

    Raises:
        InputError: there is none, or its data or table have changed since.
    """
    settings = load_settings(name)
    return prepare(settings)


def _with_device(limits: Limits, device: Device) -> Limits:
    """The study's limits, and the device's own where the study has none."""
    own = {name: value for name, value in files.as_mapping(device.limits).items() if value is not None}
    asked = {name: value for name, value in files.as_mapping(limits).items() if value is not None}
    return Limits(**(own | asked))
