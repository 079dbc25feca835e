"""edgenas measure."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from edgenas.cli.comparing import print_kernels
from edgenas.cli.printing import json_option, print_json, print_pairs, progress_bars, stderr, stdout
from edgenas.errors import counted


class NamedSizes(click.ParamType[tuple[str, tuple[int, ...]]]):
    """The sizes of an input, such as image=1x224x224x3."""

    name = "NAME=1xHxWxC"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        """The name, and the sizes."""
        if isinstance(value, tuple):
            return value
        name, _, text = str(value).rpartition("=")
        sizes = text.lower().split("x")
        if not name or not all(size.isascii() and size.isdigit() and len(size) < 10 for size in sizes):
            self.fail(f"expected NAME=SIZExSIZE... such as image=1x224x224x3, received {value!r}.", param, ctx)
        return name, tuple(map(int, sizes))


@click.command()
@click.argument("model", metavar="MODEL.tflite", type=click.Path(path_type=Path))
@click.argument("device")
@click.option("--runs", type=click.IntRange(10, 100_000), default=200, show_default=True)
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--every-ms", type=click.FloatRange(0.1, 60_000), help="Sleep in between: 100 is a 10 Hz camera.")
@click.option(
    "--shape",
    "shapes",
    type=NamedSizes(),
    multiple=True,
    help="Sizes of an input that the model leaves open; again for another one. An open first size is 1.",
)
@click.option("--signature", help="Which of the model's signatures, where it has several.")
@click.option("--kernels", is_flag=True, help="Name the kernels that run in it, and their times, as well.")
@json_option
def measure(
    model: Path,
    device: str,
    runs: int,
    threads: int,
    every_ms: float | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    signature: str | None,
    kernels: bool,
    as_json: bool,
) -> None:
    """Measure any MODEL.tflite on DEVICE: latency and memory.

    \b
    Example: edgenas measure model.tflite pi
             edgenas measure model.tflite pi --shape image=1x224x224x3 --signature classify
    """
    from edgenas.device import Device
    from edgenas.errors import InputError
    from edgenas.latency.profiling.kernels import READING, kernels_in
    from edgenas.latency.profiling.measuring import measure_file

    if kernels and (shapes or signature):
        raise InputError("--kernels names those of a model as it is: leave out --shape and --signature, or --kernels.")
    target = Device.load(device)
    with progress_bars() as progress:
        result = measure_file(
            model,
            target,
            runs,
            threads,
            every_ms,
            lambda attempt, tries: progress("waiting: the device is disturbed", attempt, tries),
            dict(shapes),
            signature,
        )
    if kernels:
        ran = kernels_in(model, target, threads, target.runtime.cores)
        result |= {"kernels": [dataclasses.asdict(kernel) for kernel in ran.kernels], "kernels_us": ran.total_us}
    if as_json:
        print_json(result)
    else:
        _print_measured(result)
        if kernels:
            print_kernels(result["kernels"], result["kernels_us"])
            stdout.print(f"Note: {READING}", markup=False)


def _condition(measured: dict[str, Any]) -> str:
    """What the numbers hold for, in a line."""
    inputs = ", ".join(f"{name} {'x'.join(map(str, sizes))}" for name, sizes in measured["inputs"].items())
    every_ms = measured["every_ms"]
    parts = [
        inputs or "the model as it is",
        None if measured["signature"] is None else f"signature {measured['signature']}",
        counted(measured["threads"], "thread"),
        f"{measured['runs']} inferences " + ("one after the other" if every_ms is None else f"every {every_ms:g} ms"),
    ]
    return ", ".join(filter(None, parts))


def _print_measured(result: dict[str, Any]) -> None:
    times, grown = result["latency_ms"], result["peak_rss_growth_kb"]
    if result.get("late"):
        every = f"every {result['measured']['every_ms']:g} ms"
        stderr.print(f"The model is too slow for one inference {every}: {result['late']:.0%} began late.", markup=False)
    high = "" if times["p90"] is None else f"p90 {times['p90']:.3f}, p99 {times['p99']:.3f}, "
    busy = " (the device is busy)" if result["steadiness"] == "disturbed" else ""
    print_pairs(
        {
            "measured": _condition(result["measured"]),
            "latency": f"median {times['median']:.3f} ms (95%: {times['ci95'][0]:.3f} to {times['ci95'][1]:.3f}), "
            f"{high}the first {times['first']:.3f}{busy}",
            "load": f"{result['load_ms']:.2f} ms",
            "memory": "not told" if grown is None else f"peak RSS grew by {grown} kB",
            "steadiness": result["steadiness"] + (f". {result['busy_with']}" if result["busy_with"] else ""),
        }
    )
