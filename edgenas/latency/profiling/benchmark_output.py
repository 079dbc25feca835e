"""What TFLite's `benchmark_model` leaves: its text, its CSV of operators, its protobuf result. Read strictly.

Sources: tensorflow/lite/tools/benchmark/benchmark_model.cc (the text), tensorflow/core/util/stats_calculator.cc with
tensorflow/lite/profiling/profile_summary_formatter.cc (the CSV), and
tensorflow/lite/tools/benchmark/proto/benchmark_result.proto (the result, which LiteRT's tool writes).
"""

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from edgenas.errors import DeviceError

_PREFIX = r"(?:INFO: )?"
_TIMINGS = re.compile(
    rf"{_PREFIX}Inference timings in us: Init: (\S+), First inference: (\S+), "
    r"Warmup \(avg\): (\S+), Inference \(avg\): (\S+)"
)
_COUNTS = re.compile(rf"{_PREFIX}(count=.+)")
_MEMORY = re.compile(
    rf"{_PREFIX}(?:Memory footprint delta from the start of the tool|Peak memory footprint) \(MB\): "
    r"init=(\S+) overall=(\S+)"
)
# benchmark_model prints six digits of an average.
_SAME = 1e-4
_LONGEST_US = 1e10  # no inference takes hours
# Microseconds are whole in a median and not in an average: below this many the average is the finer clock; where some
# inferences took far longer than the others, below that many.
_FINE_US, _COARSE_US = 200.0, 10.0
# What stands for the time of inferences that the clock's whole microseconds all saw as 0: costs are ratios, and none is
# to 0. It is the least that an entry of a table can be.
_LEAST_US = 0.01
LARGEST_FILE_BYTES = 1 << 26  # it leaves some kB, and some MB of operators
# An average so far above its median was disturbed; or, where no median is told, one whose standard error is that share.
_APART, _UNSURE = 1.15, 0.05


class NonsenseError(DeviceError):
    """What benchmark_model left is not what it leaves when all is well."""


@dataclass(frozen=True)
class Timing:
    """Some inferences of one process, microseconds.

    Attributes:
        count: how many.
        first_us, min_us, max_us, avg_us, median_us: 0 where it took less than a microsecond.
        first_us: None where the result file does not tell.
        median_us: None where this benchmark_model does not tell.
    """

    count: int
    first_us: float | None
    min_us: float
    max_us: float
    avg_us: float
    std_us: float
    median_us: float | None

    @property
    def typical_us(self) -> float:
        """What one inference took, above 0: the median; the average where that is the finer clock or all there is.

        Of one that was disturbed the average is no finer: a few long inferences are in it.
        """
        if self.median_us is None or self.median_us < (_COARSE_US if self.disturbed else _FINE_US):
            return max(self.avg_us, _LEAST_US)
        return self.median_us

    @property
    def disturbed(self) -> bool:
        """Whether some inferences took so much longer that other work must have had the core."""
        if self.median_us is not None:
            return self.avg_us > _APART * (self.median_us + 1)
        return self.std_us > _UNSURE * self.avg_us * math.sqrt(self.count)


@dataclass(frozen=True)
class Benchmark:
    """One run of benchmark_model.

    Attributes:
        init_us: loading the model and applying delegates.
        first_us: the first inference.
        inference: those after the warm-up.
        growth_kb: growth of the peak of the process' memory; None where it is not told.
        delegated: "full", "partial" or "none" of the model went to the delegate that was asked for; None where the text
            does not say.
    """

    init_us: float
    first_us: float
    inference: Timing
    growth_kb: float | None
    delegated: str | None


@dataclass(frozen=True)
class Operator:
    """An operator of an inference.

    Attributes:
        kind: as TFLite names it, or the delegate's kernel.
        us: microseconds in one inference.
        count: calls in one inference.
        inside: whether it ran inside a delegate.
    """

    kind: str
    name: str
    us: float
    count: int
    inside: bool


def read_text(text: str) -> Benchmark:
    """What benchmark_model printed, stdout and stderr.

    Raises:
        NonsenseError: not complete, not of one run, or a number that no clock gives.
    """
    lines = [line.strip() for line in text.splitlines()]
    timings = [found for line in lines if (found := _TIMINGS.fullmatch(line))]
    counts = [found[1] for line in lines if (found := _COUNTS.fullmatch(line))]
    if len(timings) != 1 or len(counts) != 2:
        raise _nonsense(
            f"expected one line 'Inference timings in us' and two of counts, received {len(timings)} and {len(counts)}"
        )
    init_us, first_us, warmup_us, average_us = (_time(value) for value in timings[0].groups())
    warmup, inference = (_timing(line) for line in counts)
    for what, said, counted in (
        ("the first inference", first_us, warmup.first_us or 0.0),
        ("the warm-up", warmup_us, warmup.avg_us),
        ("the inferences", average_us, inference.avg_us),
    ):
        if abs(said - counted) > _SAME * counted + 0.01:
            raise _nonsense(f"{what} took {said:g} us in one line and {counted:g} us in another")
    memory = [found for line in lines if (found := _MEMORY.fullmatch(line))]
    growth_kb = _size_kb(_number(memory[0][2]) * 1024) if memory else None
    return Benchmark(init_us, first_us, inference, growth_kb, _delegated(text))


def _timing(line: str) -> Timing:
    """A line such as "count=50 first=9 curr=8 min=7 max=12 avg=8.4 std=1 p5=7 median=8 p95=11"."""
    said: dict[str, str] = {}
    for word in line.replace("(all same)", "").split():
        key, equals, value = word.partition("=")
        if not equals or key in said:
            raise _nonsense(f"the line {line[:80]!r}")
        said[key] = value
    try:
        count = _whole(said["count"])
        if "first" in said:
            first, high, avg = (_time(said[key]) for key in ("first", "max", "avg"))
            low, std = _time(said["min"]), _number(said["std"])
        else:  # all took the same
            first = low = high = avg = _time(said["curr"])
            std = 0.0
        median = _time(said["median"]) if "median" in said else None
    except KeyError:
        raise _nonsense(f"the line {line[:80]!r}") from None
    inside = low <= first <= high and low - 0.01 <= avg * (1 + _SAME) and avg * (1 - _SAME) <= high
    if count < 1 or not inside or std < 0 or (median is not None and not low <= median <= high):
        raise _nonsense(f"the line {line[:80]!r} contradicts itself")
    return Timing(count, first, low, high, avg, std, median)


def _delegated(text: str) -> str | None:
    if "the model graph will be completely executed by the delegate" in text:
        return "full"
    if "the model graph will be partially executed by the delegate" in text:
        return "partial"
    refused = "the model graph will not be executed by the delegate", "acceleration is unsupported on this platform"
    return "none" if any(words in text for words in refused) else None


# The operators, as CSV

_SECTION = "Operator-wise Profiling Info for Regular Benchmark Runs:"
_RUN_ORDER = re.compile(r"=+ Run Order =+")
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?(?:e[+-]?\d+)?|nan|inf)"
_COLUMNS = {
    "start": _NUMBER,
    "first": _NUMBER,
    "avg_ms": _NUMBER,
    "%": rf"{_NUMBER}%",
    "cdf%": rf"{_NUMBER}%",
    "mem KB": _NUMBER,
    "times called": r"\d+",
}


def read_operators(text: str) -> tuple[Operator, ...]:
    """The operators of an inference in the order they ran, from the file of `--profiling_output_csv_file`.

    An operator that stands for a whole delegate is left out where the delegate's own follow.

    Raises:
        NonsenseError: no such file, not complete, or a number that no clock gives.
    """
    _, found, rest = text.partition(_SECTION)
    if not found:
        raise _nonsense(f"its CSV has no section {_SECTION!r}")
    graphs, _, delegates = rest.partition("Delegate internal:")
    outside, inside = _table(graphs, False), _table(delegates, True)
    if not outside:
        raise _nonsense("its CSV names no operator")
    if inside:
        outside = [operator for operator in outside if "delegate" not in operator.kind.lower()]
    return (*outside, *inside)


def _table(text: str, inside: bool) -> list[Operator]:
    """The rows of the tables "Run Order": one for each subgraph."""
    operators: list[Operator] = []
    lines = iter(text.splitlines())
    for line in lines:
        if not _RUN_ORDER.fullmatch(line.strip()):
            continue
        row = _row(next(lines, ""))
        for content in lines:
            if not content.strip():
                break
            cells = row.fullmatch(content.strip())
            if cells is None:
                raise _nonsense(f"the line {content.strip()[:80]!r} of its CSV")
            us, calls = _time(_number(cells["avg_ms"]) * 1000), _whole(cells["times_called"])
            operators.append(Operator(cells["kind"], cells["name"], us, calls, inside))
    return operators


def _row(head: str) -> re.Pattern[str]:
    """What a row looks like below such a head; kinds and names may hold commas themselves."""
    words = [word.strip() for word in head.split(",")]
    kind, columns, name = words[0], words[1:-1], words[-1]
    unknown = [column for column in columns if column not in _COLUMNS]
    if (kind, name) != ("node type", "name") or unknown or not {"avg_ms", "times called"} <= set(columns):
        raise _nonsense(f"the head {head[:80]!r} of its CSV")
    named = {"avg_ms": "avg_ms", "times called": "times_called"}
    cells = [f"(?P<{named[c]}>{_COLUMNS[c]})" if c in named else _COLUMNS[c] for c in columns]
    return re.compile("(?P<kind>.+?), " + ", ".join(cells) + ", ?(?P<name>.*)")


# The result, as a protocol buffer

_LATENCY, _MEMORY_METRICS, _MISC = 2, 3, 4  # fields of BenchmarkResult


def read_result(data: bytes) -> Benchmark:
    """The message `BenchmarkResult` in the file of `--result_file_path`.

    Raises:
        NonsenseError: no such message, not complete, or a number that no clock gives.
    """
    try:
        parts = {number: value for number, value in _fields(data) if isinstance(value, bytes)}
        latency = dict(_fields(parts[_LATENCY]))
        memory, misc = dict(_fields(parts.get(_MEMORY_METRICS, b""))), dict(_fields(parts[_MISC]))
        times = [_number(latency[number]) * 1000 for number in (1, 2, 3, 5, 8, 9)]
        spread_us, runs, footprint = _number(latency[4]) * 1000, _whole(misc[2]), memory.get(2)
    except (KeyError, ValueError, struct.error) as error:
        raise _nonsense(f"its result file is no BenchmarkResult ({error!r})") from None
    avg_us, low_us, high_us, median_us, init_us, first_us = map(_time, times)
    inside = low_us * (1 - _SAME) <= avg_us <= high_us * (1 + _SAME) and low_us <= median_us <= high_us
    if runs < 1 or not inside or spread_us < 0:
        raise _nonsense("the times of its result file contradict each other")
    timing = Timing(runs, None, low_us, high_us, avg_us, spread_us, median_us)
    growth_kb = _size_kb(_number(footprint)) if footprint is not None else None
    return Benchmark(init_us, first_us, timing, growth_kb, None)


def _fields(data: bytes) -> Iterator[tuple[int, bytes | float | int]]:
    """The fields of a protocol buffer: numbers as they are written, strings and messages as bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value
        elif kind == 5:
            yield key >> 3, struct.unpack_from("<f", data, place)[0]
            place += 4
        elif kind == 1:
            yield key >> 3, struct.unpack_from("<d", data, place)[0]
            place += 8
        elif kind == 2:
            length, place = _varint(data, place)
            if place + length > len(data):
                raise ValueError("a field that is cut off")
            yield key >> 3, data[place : place + length]
            place += length
        else:
            raise ValueError(f"a field of the unknown kind {kind}")


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("a number that is cut off")
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number without an end")


def _number(value: str | bytes | float) -> float:
    """The one way in which a number is read here: what comes back is finite."""
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise _nonsense(f"the number {str(value)[:20]!r}")
    return number


def _whole(value: str | bytes | float) -> int:
    """How many there are of something."""
    number = _number(value)
    if number < 0 or not number.is_integer():
        raise _nonsense(f"a count of {number:g}")
    return int(number)


def _time(value: str | float) -> float:
    """Microseconds, as a clock can give them; a clock of whole ones gives 0 too."""
    us = _number(value)
    if not 0 <= us < _LONGEST_US:
        raise _nonsense(f"a time of {us:g} us")
    return us


def _size_kb(kilobytes: float) -> float:
    if not 0 <= kilobytes < 1 << 40:
        raise _nonsense(f"a memory of {kilobytes:g} kB")
    return kilobytes


def _nonsense(what: str) -> NonsenseError:
    return NonsenseError(f"What benchmark_model says makes no sense: {what[:300]}. Nothing was kept.")
