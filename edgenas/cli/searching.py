"""edgenas search, pareto, report."""

from pathlib import Path
from typing import Any

import click

from edgenas.cli.printing import Shape, duration, json_option, print_json, print_pairs, print_table, stderr, stdout
from edgenas.errors import counted


@click.command()
@click.option("--study", required=True, help="Its name; the same name goes on with it.")
@click.option("--data", required=True, help="A folder with a sub-folder a class, an .npz, fashion-mnist or digits.")
@click.option("--device", required=True)
@click.option("--space", type=click.Choice(["tiny", "standard"]), default="tiny", show_default=True)
@click.option("--input", "input_shape", type=Shape(), required=True, help="Of the models, such as 28x28x1.")
@click.option("--precision", type=click.Choice(["float32", "int8"]), default="int8", show_default=True)
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--activation", type=click.Choice(["relu", "relu6", "hardswish"]), default="relu6", show_default=True)
@click.option("--table", default="", help="The latency table, where more than one fits.")
@click.option("--policy", type=click.Choice(["fit", "crop", "pad"]), default="pad", show_default=True,
              help="How an image of another size is brought to the input.")  # fmt: skip
@click.option("--group-pattern", help="Regular expression on paths; its first group stays in one split.")
@click.option("--metric", type=click.Choice(["accuracy", "balanced_accuracy"]), default="accuracy", show_default=True)
@click.option("--strategy", type=click.Choice(["auto", "random", "nsga2", "tpe"]), default="auto", show_default=True)
@click.option("--evaluator", type=click.Choice(["train"]), default="train", show_default=True)
@click.option("--trials", type=click.IntRange(1), default=50, show_default=True, help="Candidates to evaluate.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--max-latency-ms", type=float)
@click.option("--max-peak-memory-kb", type=float)
@click.option("--max-arena-kb", type=float)
@click.option("--max-model-kb", type=float)
@click.option("--coverage", type=float, default=0.9, show_default=True, help="Of the latency's interval.")
@click.option("--steps", type=click.IntRange(1),
              help="Of a candidate.  [default: as many as the first ones need to beat guessing]")  # fmt: skip
@click.option("--share", type=float, default=1.0, show_default=True, help="Of the training images, for a candidate.")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Of the input's sides, for a candidate.")
@click.option("--balance-classes", is_flag=True, help="Weight the loss so that every class counts the same.")
@click.option("--flip", is_flag=True, help="A mirrored image keeps its class: mirror at random.")
@click.option("--augment", type=click.Choice(["none", "light", "strong"]),
              help="How images are varied.  [default: by their number and by images held out]")  # fmt: skip
@click.option("--mixup", type=click.FloatRange(0), default=0.0, show_default=True, help="Blend pairs of images.")
@click.option("--batch-size", type=click.IntRange(2), help="Images a step.  [default: by number of images]")
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="[default: by number of images]")
@click.option("--weight-decay", type=click.FloatRange(0), default=0.02, show_default=True)
@click.option("--final-steps", type=click.IntRange(1),
              help="Of the chosen one.  [default: until images held out get no better]")  # fmt: skip
@click.option("--most-steps", type=click.IntRange(1), default=2500, show_default=True,
              help="Of each training that looks for that.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check data, table and limits, say how much is to do, and stop.")
@json_option
def search(as_json: bool, dry_run: bool, **given: Any) -> None:
    """Search for the most accurate networks that keep the limits on DEVICE.

    Killed or interrupted, the same command goes on where it was.

    \b
    Example: edgenas search --study shoes --data ./images --device pi --input 96x96x3 --space standard \\
                            --max-latency-ms 20 --trials 50
    """
    from edgenas.strategy import load_inputs, prepare, run

    settings = _settings(given)
    if dry_run:
        _show_dry_run(load_inputs(settings), as_json)
        return
    prepared = prepare(settings)
    _tell(prepared)
    with _Trials(settings.trials, prepared.study.counts()["complete"]) as trials:
        run(prepared, trials.show, trials.say)
    _show_front(prepared.settings, prepared.study, as_json)


def _tell(inputs: Any) -> None:
    """What is to be said of data and table before a search begins."""
    left_out = [f"left out: {path}: {why}" for path, why in inputs.dataset.left_out[:5]]
    standing = str(_backing(inputs.settings))
    span = str(inputs.free.span()) if inputs.settings.limits.max_latency_ms is None else ""
    for note in (*inputs.dataset.notes, *left_out, *filter(None, [standing, span])):
        stderr.print(note, markup=False)


def _show_dry_run(inputs: Any, as_json: bool) -> None:
    from edgenas.strategy import StoredStudy, study_folder

    _tell(inputs)
    settings = inputs.settings
    begun = study_folder(settings.study).is_dir()
    found = {
        "study": settings.study,
        "data": repr(inputs.dataset),
        "splits": inputs.splits.sizes(),
        "table": settings.table,
        "trials_done": StoredStudy(settings.study).counts()["complete"] if begun else 0,
        "trials": settings.trials,
    }
    print_json(found) if as_json else print_pairs({key: str(value) for key, value in found.items()})


def _settings(given: dict[str, Any]) -> Any:
    from edgenas.evaluation.recipe import Fidelity, Recipe
    from edgenas.strategy import Final, Limits, Settings

    def take(*names: str) -> dict[str, Any]:
        return {name: given.pop(name) for name in names}

    return Settings(
        limits=Limits(
            **take("max_latency_ms", "max_peak_memory_kb", "max_arena_kb", "max_model_kb", "coverage"),
        ),
        fidelity=Fidelity(**take("steps", "share", "scale")),
        recipe=Recipe(
            **take("batch_size", "learning_rate", "weight_decay", "augment", "flip", "mixup", "balance_classes")
        ),
        final=Final(given.pop("final_steps"), given.pop("most_steps")),
        **given,
    )


class _Trials:
    """One bar for the search: trials done, the best so far, time left."""

    def __init__(self, total: int, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bars = Progress(
            TextColumn("searching"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            console=stderr,
        )
        self._task = self._bars.add_task("searching", total=total, completed=done, said="")

    def __enter__(self) -> "_Trials":
        self._bars.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._bars.__exit__(*exc)

    def say(self, sentence: str) -> None:
        stderr.print(sentence, markup=False)

    def show(self, report: Any) -> None:
        self._bars.update(self._task, completed=report.complete, said=_standing(report))
        if report.error is not None or not stderr.is_terminal:
            stderr.print(trial_line(report), markup=False)


def trial_line(report: Any) -> str:
    """A trial in one line, for logs."""
    if report.error is not None:
        return f"trial {report.number} failed: {report.error}"
    point = report.point
    name = f" ({point.name})" if point.name else ""
    guess = "" if point.learned else " (no better than guessing)"
    return (
        f"trial {report.complete}/{report.trials}: {point.id}{name} {point.accuracy:.1%}{guess}, "
        f"{point.latency_ms:.3f} ms, {point.peak_memory_kb:.0f} kB; {_standing(report)}"
    )


def _standing(report: Any) -> str:
    left = f"about {duration(report.left_s)} left"
    return f"best {report.best.accuracy:.1%} at {report.best.latency_ms:.3f} ms; {left}" if report.best else left


@click.command()
@click.argument("study")
@click.option("--picture", type=click.Path(path_type=Path), help="Where to draw it (studies/STUDY/front.png).")
@json_option
def pareto(study: str, picture: Path | None, as_json: bool) -> None:
    """Show the front of STUDY as a table and a picture.

    \b
    Example: edgenas pareto shoes
    """
    settings, found = _open(study)
    _show_front(settings, found, as_json, picture)


@click.command()
@click.argument("study")
@click.option("--to", type=click.Path(path_type=Path), help="The page (studies/STUDY/report.html).")
@json_option
def report(study: str, to: Path | None, as_json: bool) -> None:
    """Write STUDY as one HTML page: its question, its front, what it cost.

    \b
    Example: edgenas report shoes
    """
    from edgenas.report import write_page

    settings, found = _open(study)
    path = to or found.folder / "report.html"
    write_page(settings, found.front, found.points, found.counts(), str(_backing(settings)), path)
    print_json({"report": str(path)}) if as_json else stdout.print(f"{path} written.", markup=False)


def _open(study: str) -> tuple[Any, Any]:
    """Settings and results of a study; neither its data nor its device are needed to look at it."""
    from edgenas.strategy import StoredStudy, load_settings

    return load_settings(study), StoredStudy(study)


def _backing(settings: Any) -> Any:
    from edgenas.latency.table.finding import backing

    return backing(settings.table, settings.limits.max_latency_ms)


def _show_front(settings: Any, study: Any, as_json: bool, picture: Path | None = None) -> None:
    from edgenas.report import draw_front, front_rows

    front, counts = study.front, study.counts()
    path = picture or study.folder / "front.png"
    title = f"{settings.study}: {settings.data} on {settings.device}, {settings.precision}"
    if len(front):
        draw_front(front, study.points, title, path, settings.limits.max_latency_ms)
    if as_json:
        trials = {name: counts[name] for name in ("complete", "infeasible", "failed", "duplicate")}
        cost = {"training_s": counts["seconds"], "proposals": counts["proposals"]}
        standing = _backing(settings)
        print_json({"study": settings.study, "front": front_rows(front), "trials": trials, "cost": cost,
                    "table": standing.table, "doubt": standing.doubt})  # fmt: skip
        return
    print_front(front, path)
    for line in filter(None, [str(_backing(settings)), tied(front), added(study.points)]):
        stdout.print(line)
    stdout.print(
        f"{counted(counts['complete'], 'network')} evaluated in {counts['seconds']:.0f} s of training; "
        f"{counted(counts['infeasible'], 'proposal')} over a limit and {counts['duplicate']} repeated never were; "
        f"{counts['failed']} failed."
    )


def tied(front: Any) -> str:
    """That so few images cannot tell the best networks apart, in a sentence; "" where one is alone."""
    if not len(front) or len(front.tied) == 1:
        return ""
    best = front.pick("best")
    return (
        f"The {len(front.tied)} most accurate of the front are tied: {best.images} images cannot tell them apart. "
        f'"best" is the fastest of them, {best.id}.'
    )


def added(points: Any) -> str:
    """What the search found beyond the networks drawn by hand, in a sentence; "" where it has either none."""
    drawn = [point for point in points if point.name]
    proposed = [point for point in points if not point.name]
    if not drawn or not proposed:
        return ""
    mine, theirs = (max(some, key=lambda point: point.accuracy) for some in (proposed, drawn))
    more = 100 * (mine.accuracy - theirs.accuracy)
    return (
        f"The best drawn by hand ({theirs.name}): {accuracy_of(theirs)} at {theirs.latency_ms:.3f} ms. The best that "
        f"was proposed: {accuracy_of(mine)} at {mine.latency_ms:.3f} ms ({more:+.1f} points)."
    )


def accuracy_of(point: Any) -> str:
    """An accuracy, give or take half of its 95% interval."""
    if point.accuracy_interval is None:
        return f"{point.accuracy:.1%}"
    low, high = point.accuracy_interval
    return f"{100 * point.accuracy:.1f}±{50 * (high - low):.1f}%"


def print_front(front: Any, picture: Path) -> None:
    """The front for people."""
    heads = ("id", "accuracy", "ms", "interval ms", "arena kB", "model kB", "peak kB")
    rows = [
        (
            f"{point.id} *" if point.name else point.id,
            accuracy_of(point),
            f"{point.latency_ms:.3f}",
            "-" if point.known_interval_ms is None else "{:.3f} - {:.3f}".format(*point.known_interval_ms),
            f"{point.arena_kb:.0f}",
            f"{point.model_kb:.0f}",
            f"{point.peak_memory_kb:.0f}",
        )
        for point in front
    ]
    print_table(heads, rows)
    for point in front:
        if point.name:
            stdout.print(f"* {point.id}, drawn by hand: {point.name}", markup=False)
    stdout.print(f"The picture: {picture}")
