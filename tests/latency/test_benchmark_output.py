"""What benchmark_model leaves is read strictly: what is not complete, finite and positive is refused in one line."""

import math
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgenas.errors import DeviceError
from edgenas.latency.profiling.benchmark_output import read_operators, read_result, read_text
from tests.adb.benchmark_model import result

CLASSIC = """\
STARTING!
Log parameter values verbosely: [0]
Num threads: [4]
Graph: [/data/local/tmp/m.tflite]
Loaded model /data/local/tmp/m.tflite
Explicitly applied XNNPACK delegate, and the model graph will be partially executed by the delegate w/ 2 delegate kernels.
The input model file size (MB): 16.9008
Initialized session in 17.187ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=4 first=166743 curr=117893 min=117868 max=166743 avg=130148 std=21128

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=117913 curr=117896 min=117862 max=118059 avg=117930 std=44

Inference timings in us: Init: 17187, First inference: 166743, Warmup (avg): 130148, Inference (avg): 117930
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at your discretion.
Memory footprint delta from the start of the tool (MB): init=3.25 overall=22.5
"""  # noqa: E501
NEW = """\
INFO: STARTING!
INFO: Loaded model m.tflite
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=2 curr=12(all same) p5=12 median=12 p95=12

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=84211 first=12 curr=11 min=11 max=4096 avg=11.8312 std=14 p5=11 median=12 p95=12

INFO: Inference timings in us: Init: 311, First inference: 12, Warmup (avg): 12, Inference (avg): 11.8312
"""
COUNTS = "count=50 first=117913 curr=117896 min=117862 max=118059 avg=117930 std=44"


def test_the_text_of_the_years_before():
    found = read_text(CLASSIC)
    assert (found.init_us, found.first_us, found.growth_kb, found.delegated) == (17187, 166743, 22.5 * 1024, "partial")
    timing = found.inference
    assert (timing.count, timing.min_us, timing.max_us, timing.avg_us) == (50, 117862, 118059, 117930)
    assert (timing.median_us, timing.typical_us, timing.disturbed) == (None, 117930, False)


@pytest.mark.parametrize(
    ("said", "share"),
    [
        ("Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.", "full"),
        ("Though GPU delegate is explicitly applied, the model graph will not be executed by the delegate.", "none"),
        ("WARN: NNAPI acceleration is unsupported on this platform.", "none"),
        ("", None),
    ],
)
def test_how_much_the_delegate_took(said: str, share: str | None):
    lines = [said if line.startswith("Explicitly") else line for line in CLASSIC.splitlines()]
    assert read_text("\n".join(lines)).delegated == share


def test_the_text_of_now():
    found = read_text(NEW)
    assert (found.growth_kb, found.delegated) == (None, None)
    assert found.inference.median_us == 12
    assert found.inference.typical_us == 11.8312, "a median of whole microseconds is coarse there"
    slow = NEW.replace("first=12 curr=11 min=11 max=4096 avg=11.8312 std=14 p5=11 median=12",
                       "first=900 curr=900 min=800 max=4096 avg=1000.5 std=14 p5=850 median=900")  # fmt: skip
    slow = slow.replace("Inference (avg): 11.8312", "Inference (avg): 1000.5")
    assert read_text(slow).inference.typical_us == 900
    assert not read_text(slow).inference.disturbed
    noisy = slow.replace("avg=1000.5", "avg=1100").replace("(avg): 1000.5", "(avg): 1100")
    assert read_text(noisy).inference.disturbed
    spread = CLASSIC.replace("max=118059 avg=117930 std=44", "max=998059 avg=130000 std=80000")
    assert read_text(spread.replace("(avg): 117930", "(avg): 130000")).inference.disturbed


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ("Inference (avg): 117930", "Inference (avg): nan"),
        ("Inference (avg): 117930", "Inference (avg): inf"),
        ("Inference (avg): 117930", "Inference (avg): -117930"),
        ("Inference (avg): 117930", "Inference (avg): 0"),
        ("Inference (avg): 117930", "Inference (avg): 1e300"),
        ("Inference (avg): 117930", "Inference (avg): 90000"),
        ("Inference (avg): 117930", "Inference (avg): fast"),
        ("Inference (avg): 117930", ""),
        ("First inference: 166743", "First inference: 7"),
        ("Warmup (avg): 130148", "Warmup (avg): 7"),
        ("Init: 17187", "Init: -1.2.3"),
        ("Init: 17187", "Init: -1"),
        (COUNTS, ""),
        (COUNTS, f"{COUNTS}\n{COUNTS}"),
        (COUNTS, COUNTS.replace("count=50", "count=0")),
        (COUNTS, COUNTS.replace("count=50", "count=" + "9" * 5000)),
        (COUNTS, COUNTS.replace("count=50", "count=fifty")),
        (COUNTS, COUNTS.replace("min=117862", "min=119999")),
        (COUNTS, COUNTS.replace("min=117862", "min=-5")),
        (COUNTS, COUNTS.replace("std=44", "std=nan")),
        (COUNTS, COUNTS.replace("std=44", "std=-1")),
        (COUNTS, COUNTS.replace("avg=117930", "avg=117930 avg=1")),
        (COUNTS, COUNTS.replace(" max=118059", "")),
        (COUNTS, f"{COUNTS} p5=1 median=2 p95=3"),
        ("overall=22.5", "overall=-22.5"),
        ("overall=22.5", "overall=nan"),
        ("overall=22.5", "overall=-1..2"),
        (CLASSIC, CLASSIC + CLASSIC),
        (CLASSIC, ""),
    ],
)
def test_what_no_clock_gives_is_refused(then: str, now: str):
    assert then in CLASSIC
    with pytest.raises(DeviceError, match=r"^What benchmark_model says makes no sense: .*Nothing was kept\.$"):
        read_text(CLASSIC.replace(then, now))


UNDER_A_MICROSECOND = """\
count=4 first=2 curr=0 min=0 max=2 avg=0.5 std=0

count=90000 first=0 curr=0 min=0 max=7 avg=0.25 std=0 p5=0 median=0 p95=1

Inference timings in us: Init: 311, First inference: 2, Warmup (avg): 0.5, Inference (avg): 0.25
"""
ALL_ZERO = """\
count=9000 curr=0(all same)

count=90000 curr=0(all same) p5=0 median=0 p95=0

Inference timings in us: Init: 311, First inference: 0, Warmup (avg): 0, Inference (avg): 0
"""


def test_inferences_under_a_microsecond_are_measured_too():
    """benchmark_model counts whole ones."""
    found = read_text(UNDER_A_MICROSECOND).inference
    assert (found.first_us, found.min_us, found.median_us, found.typical_us, found.disturbed) == (0, 0, 0, 0.25, False)
    found = read_text(ALL_ZERO).inference
    assert (found.count, found.avg_us, found.disturbed) == (90000, 0, False)
    assert 0 < found.typical_us < 0.1, "costs are ratios to it, or of it"
    found = read_result(result([0, 0, 0], [1], 311, 2048)).inference
    assert (found.avg_us, found.median_us) == (0, 0)
    assert 0 < found.typical_us < 0.1


def at(word: str) -> int:
    return CLASSIC.index(word) + len(word)


@given(st.text(), st.integers(0, len(CLASSIC)), st.integers(0, 300))
@example("-1.2.3", at("Init: "), 5)
@example("-1..2", at("overall="), 4)
@example("9" * 5000, at("count="), 1)
@example("1e999", at("avg="), 6)
def test_whatever_it_prints_is_understood_or_refused(odd: str, place: int, length: int):
    text = CLASSIC[:place] + odd + CLASSIC[place + length :]
    try:
        timing = read_text(text).inference
    except DeviceError:
        return
    assert math.isfinite(timing.typical_us)
    assert timing.typical_us > 0


# The operators

CSV = """\
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
ModifyGraphWithDelegate, 0, 1.5, 1.5, 90%, 90%, 0, 1, ModifyGraphWithDelegate/0
AllocateTensors, 1.5, 0.1, 0.1, 10%, 100%, 0, 2, AllocateTensors/0

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
TfLiteXNNPackDelegate, 0, 0.02, 0.021, 60%, 60%, 0, 1, [a, b;c]:7
HARD_SWISH, 0.02, 0.015, 0.0145, 40%, 100%, 0, 2, [model/act]:3

============================== Top by Computation Time ==============================
node type, start, first, avg_ms, %, cdf%, mem KB, times called, name
TfLiteXNNPackDelegate, 0, 0.02, 0.021, 60%, 60%, 0, 1, [a, b;c]:7

Number of nodes executed: 2
============================== Summary by node type ==============================
node type, count, avg_ms, avg %, cdf %, mem KB, times called
TfLiteXNNPackDelegate, 1, 0.021, 60%, 60%, 0, 1

Timings (microseconds): count=50 first=35 curr=36 min=35 max=40 avg=35.5 std=1
Memory (bytes): count=0
2 nodes observed


Delegate internal:
============================== Run Order ==============================
node type, first, avg_ms, %, cdf%, mem KB, times called, name
Fully Connected (NC, QS8, QC8W) GEMM, 0.009, 0.0085, 50%, 50%, 0, 1, Delegate/Fully Connected (NC, QS8, QC8W) GEMM:0
Convolution (NHWC, QC8) DWConv, 0.01, 1e-02, 50%, 100%, 0, 1, Delegate/Convolution (NHWC, QC8) DWConv:1

"""


def test_operators_with_a_delegate_s_own():
    found = read_operators(CSV)
    assert [(op.kind, round(op.us, 6), op.count, op.inside) for op in found] == [
        ("HARD_SWISH", 14.5, 2, False),
        ("Fully Connected (NC, QS8, QC8W) GEMM", 8.5, 1, True),
        ("Convolution (NHWC, QC8) DWConv", 10.0, 1, True),
    ]
    alone = read_operators(CSV.partition("Delegate internal:")[0])
    assert [(op.kind, op.name) for op in alone] == [
        ("TfLiteXNNPackDelegate", "[a, b;c]:7"),
        ("HARD_SWISH", "[model/act]:3"),
    ]


@pytest.mark.parametrize(
    ("then", "now"),
    [
        ("0.0145, 40%", "nan, 40%"), ("0.0145, 40%", "-1, 40%"), ("0.0145, 40%", "fast, 40%"),
        ("0.0145, 40%", "1e30, 40%"), ("0, 2, [model/act]:3", "0, two, [model/act]:3"),
        ("Operator-wise Profiling Info for Regular Benchmark Runs:", ""), ("avg_ms, %", "ms, %"), (CSV, ""),
        ("node type, first, avg_ms", "type, first, avg_ms"),
    ],
)  # fmt: skip
def test_a_csv_that_is_damaged_is_refused(then: str, now: str):
    assert then in CSV
    with pytest.raises(DeviceError, match="makes no sense"):
        read_operators(CSV.replace(then, now))


@given(st.text(), st.integers(0, len(CSV)), st.integers(0, 300))
@example("-1..2", CSV.index("0.0145"), 6)
@example("9" * 5000, CSV.index("2, [model/act]"), 1)
def test_whatever_the_csv_holds_is_understood_or_refused(odd: str, place: int, length: int):
    try:
        operators = read_operators(CSV[:place] + odd + CSV[place + length :])
    except DeviceError:
        return
    assert all(math.isfinite(operator.us) and operator.us >= 0 for operator in operators)


# The result file

TIMES, WARMUP = [900, 1000, 1100, 1000], [2000, 1500]
RESULT = result(TIMES, WARMUP, 17187, 2048)


def test_the_result_file():
    found = read_result(RESULT)
    assert found.inference.count == 4
    assert found.inference.avg_us == pytest.approx(1000)
    assert found.inference.typical_us == pytest.approx(1000)
    assert (found.init_us, found.first_us) == (pytest.approx(17187), pytest.approx(2000))
    assert found.growth_kb == pytest.approx(2048)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0, 1e38, 0.5])
def test_a_result_that_no_clock_gives_is_refused(value: float):
    damaged = RESULT.replace(struct.pack("<f", 1.0), struct.pack("<f", value), 1)  # the average
    assert damaged != RESULT
    with pytest.raises(DeviceError, match="makes no sense"):
        read_result(damaged)


def field(number: int, value: float | bytes) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, bytes):
        return bytes([number << 3 | 2, len(value)]) + value
    return bytes([number << 3 | 5]) + struct.pack("<f", value)


LATENCIES = b"".join(field(number, 1.0) for number in (1, 2, 3, 4, 5, 8, 9))
ODD = [
    field(2, LATENCIES) + field(3, field(2, footprint)) + field(4, field(2, runs))
    for runs, footprint in (
        (math.inf, 1.0),
        (math.nan, 1.0),
        (1.5, 1.0),
        (4.0, math.nan),
        (4.0, -1.0),
        (4.0, b"x"),
        (b"", 1.0),
    )
]


@pytest.mark.parametrize("odd", ODD)
def test_counts_and_sizes_that_are_none_are_refused(odd: bytes):
    assert read_result(field(2, LATENCIES) + field(4, field(2, 4.0))).inference.count == 4
    with pytest.raises(DeviceError, match="makes no sense"):
        read_result(odd)


@given(st.binary())
def test_whatever_the_result_holds_is_understood_or_refused(data: bytes):
    for odd in (data, RESULT[: len(data)], RESULT[: len(data)] + data + RESULT[2 * len(data) :]):
        try:
            timing = read_result(odd).inference
        except DeviceError:
            continue
        assert math.isfinite(timing.typical_us)
        assert timing.typical_us > 0
