"""Everything needed to run a study again: `study.toml`."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import edgenas.files as files
from edgenas.errors import InputError, near
from edgenas.evaluation.recipe import Fidelity, Recipe
from edgenas.evaluation.stopping import MOST_STEPS

StrategyName = Literal["auto", "random", "nsga2", "tpe"]
Metric = Literal["accuracy", "balanced_accuracy"]


@dataclass(frozen=True)
class Limits:
    """What a candidate may cost at most; None where nothing is asked.

    Attributes:
        max_latency_ms: kept when the upper end of the prediction's interval keeps it.
        max_arena_kb: what TFLite Micro needs beside the model.
        max_model_kb: the `.tflite` file.
        max_peak_memory_kb: both.
        coverage: of the latency's interval.
    """

    max_latency_ms: float | None = None
    max_arena_kb: float | None = None
    max_model_kb: float | None = None
    max_peak_memory_kb: float | None = None
    coverage: float = 0.9

    def __post_init__(self) -> None:
        for name, most in self.by_objective().items():
            if not most > 0:
                raise InputError(f"max_{name}: expected more than 0, received {most}.")
        if not 0 < self.coverage < 1:
            raise InputError(f"coverage: expected more than 0 and less than 1, received {self.coverage}.")

    def by_objective(self) -> dict[str, float]:
        """Objective -> at most, of those that are asked."""
        names = ("latency_ms", "arena_kb", "model_kb", "peak_memory_kb")
        return {name: most for name in names if (most := getattr(self, f"max_{name}")) is not None}


@dataclass(frozen=True)
class Final:
    """How long the chosen network is trained.

    Attributes:
        steps: None: found on images held out; see `edgenas.evaluation.stopping`.
        most_steps: of each training that looks for it.
    """

    steps: int | None = None
    most_steps: int = MOST_STEPS

    def __post_init__(self) -> None:
        if self.most_steps < 1 or (self.steps is not None and self.steps < 1):
            raise InputError(f"Expected steps and most_steps >= 1. Received: {self}")


@dataclass(frozen=True)
class Settings:
    """One search.

    Attributes:
        study: its name.
        data: a folder, an `.npz`, or the name of a data set.
        device: its name.
        table: the latency table's name.
        space: "tiny" or "standard".
        input_shape: [height, width, channels].
        precision, threads: as deployed.
        activation: of every block.
        policy: how images are brought to the input.
        group_pattern: regular expression whose first group names what must stay in one split.
        metric: what "accuracy" means in the front.
        strategy: how the space is explored.
        evaluator: how a candidate's accuracy is learnt.
        trials: candidates to evaluate.
        seed: of all that is drawn.
        limits: what a candidate may cost.
        recipe: how networks are trained.
        fidelity, final: how long candidates are, and how long the chosen one is.
        data_identity, table_checksum: of what the study was begun with.
    """

    study: str
    data: str
    device: str
    table: str
    space: str
    input_shape: tuple[int, int, int]
    precision: Literal["float32", "int8"] = "int8"
    threads: int = 1
    activation: Literal["relu", "relu6", "hardswish"] = "relu6"
    policy: Literal["fit", "crop", "pad"] = "pad"
    group_pattern: str | None = None
    metric: Metric = "accuracy"
    strategy: StrategyName = "auto"
    evaluator: Literal["train"] = "train"
    trials: int = 50
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    fidelity: Fidelity = field(default_factory=Fidelity)
    recipe: Recipe = field(default_factory=Recipe)
    final: Final = field(default_factory=Final)
    data_identity: str = ""
    table_checksum: str = ""

    def __post_init__(self) -> None:
        files.check_name("study", self.study)
        if self.trials < 1:
            raise InputError(f"trials: expected at least 1, received {self.trials}.")


def study_folder(name: str) -> Path:
    """Where a study lies in the user's project."""
    return Path("studies") / files.check_name("study", name)


def study_names() -> list[str]:
    """The studies of this project."""
    return sorted(path.parent.name for path in Path("studies").glob("*/study.toml"))


def remove_study(name: str, dry_run: bool = False) -> int:
    """Remove a study with all that lies in its folder; how many bytes that is.

    Args:
        dry_run: remove nothing.

    Raises:
        InputError: there is none of that name.
    """
    load_settings(name)
    folder = study_folder(name)
    size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not dry_run:
        # The settings last: a study that was half removed can be removed again.
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "study.toml"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.rmdir()
    return size_bytes


def load_settings(name: str) -> Settings:
    """The settings of a study that was begun.

    Raises:
        InputError: there is none of that name, or its file was spoiled.
    """
    path = study_folder(name) / "study.toml"
    if not path.is_file():
        raise InputError(f"There is no study {name!r}. {near(name, study_names())}")
    return files.from_mapping(Settings, files.read_toml(path, "study"), str(path))


def begin(settings: Settings) -> Settings:
    """Write `study.toml`, or check that a study of that name was begun with the same settings.

    More trials than before go on where the study ended.

    Raises:
        InputError: as `refuse_other`.
    """
    refuse_other(settings)
    files.write_toml(study_folder(settings.study) / "study.toml", files.as_mapping(settings))
    return settings


def refuse_other(settings: Settings) -> None:
    """Raise `InputError` where the name is taken by a study with other settings; the differences are named."""
    path = study_folder(settings.study) / "study.toml"
    if path.is_file():
        before, now = files.as_mapping(load_settings(settings.study)), files.as_mapping(settings)
        changed = [f"{key} was {before[key]!r}, now {now[key]!r}" for key in now if before[key] != now[key]]
        changed = [text for text in changed if not text.startswith("trials was")]
        if changed:
            raise InputError(
                f"The study {settings.study!r} was begun with other settings: {'; '.join(changed)}. "
                "Choose another name with --study, or give the settings that it was begun with."
            )
