"""The latency table: what it takes, how it adds up, how it is kept on disk."""

import dataclasses
import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenas.architecture import Dense, Layer
from edgenas.errors import InputError
from edgenas.latency.table import Entry, LatencyTable, MissingLayersError, table_names
from edgenas.latency.table.calibration import Calibration
from edgenas.latency.table.certificate import Certificate, Network
from edgenas.space import MobileSpace
from tests.latency.conftest import IDENTITY

Simulate = Callable[[MobileSpace], LatencyTable]
SPACE = MobileSpace("tiny", (28, 28, 1), 10)


@pytest.fixture(scope="module")
def table(simulate: Simulate) -> LatencyTable:
    return simulate(SPACE)


def few(table: LatencyTable) -> LatencyTable:
    """The same with three entries: a short file."""
    return dataclasses.replace(table, entries=dict(list(table.entries.items())[:3]))


# What it takes


@pytest.mark.parametrize("us", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_impossible_times_are_refused(table: LatencyTable, us: float) -> None:
    layer = next(iter(table.entries))
    with pytest.raises(InputError, match="positive, finite times only: input_28x28x1@28x28x1 has"):
        dataclasses.replace(table, entries=table.entries | {layer: Entry(us, 0.0, 1.0)})


@pytest.mark.parametrize("ms", [math.nan, math.inf, 0.0, -1.0])
def test_impossible_times_enter_nowhere(table: LatencyTable, ms: float) -> None:
    """Not of an inference with cold caches, of the reference, nor of a network, whether it fits or checks the table."""
    layer, good = next(iter(table.entries)), Network("n", 1.0, 1.0, 1.0)
    bad = tuple(Network("n", *times, 1.0) for times in ((ms, 1.0), (1.0, ms)))
    for change in (
        {"entries": table.entries | {layer: Entry(1.0, 0.0, ms)}},
        {"reference": ("n", ms)},
        *({"calibration": Calibration(networks=(network,))} for network in bad),
        *({"certificate": Certificate((good,), (network,))} for network in bad),
        *({"certificate": Certificate((network,), (good,))} for network in bad),
    ):
        with pytest.raises(InputError, match="positive, finite times only"):
            dataclasses.replace(table, **change)  # type: ignore[arg-type]


# Prediction


@pytest.mark.parametrize(("name", "shape"), [("tiny", (28, 28, 1)), ("tiny", (33, 64, 3)), ("standard", (96, 96, 3))])
def test_codes_and_networks_are_predicted_alike(simulate: Simulate, name: str, shape: tuple[int, int, int]) -> None:
    space = MobileSpace(name, shape, 10)
    table = simulate(space)
    codes = space.sample(np.random.default_rng(1), 200)
    by_codes = table.estimate_codes_ms(space, codes)
    networks = space.decode_codes(codes)
    np.testing.assert_allclose(by_codes, table.estimate_ms(networks), rtol=1e-12)
    total = sum(table.entries[layer].us for layer in networks[0].layers())
    of_kernel_5 = sum(table.entries[layer].us for layer in networks[0].layers() if str(layer).startswith("mbconv_k5"))
    assert of_kernel_5 > 0
    assert by_codes[0] == pytest.approx((1.1 * total - 0.05 * of_kernel_5 + 3.5) / 1000)


def test_no_network_takes_less_than_nothing(table: LatencyTable) -> None:
    lowered = dataclasses.replace(table, calibration=dataclasses.replace(table.calibration, offset_us=-1e9))
    assert lowered.estimate_ms([SPACE.smallest])[0] > 0


def test_nothing_is_predicted_for_nothing(table: LatencyTable) -> None:
    assert table.estimate_ms([]).shape == (0,)
    assert table.estimate_codes_ms(SPACE, SPACE.sample(np.random.default_rng(0), 0)).shape == (0,)


def test_missing_layers_are_named_with_the_command(table: LatencyTable) -> None:
    other = MobileSpace("tiny", (32, 32, 1), 10)
    with pytest.raises(MissingLayersError, match=r"lacks \d+ layers") as caught:
        table.estimate_codes_ms(other, other.smallest_code[None])
    assert str(caught.value.layers[0]) in str(caught.value)
    command = "edgenas profile board --space tiny --input 32x32x1 --precision int8 --threads 1"
    assert str(caught.value).endswith(command)
    with pytest.raises(MissingLayersError, match=r"edgenas profile board .*--precision int8") as caught:
        table.estimate_ms([SPACE.smallest, other.smallest])
    assert all(layer in other.smallest.layers() for layer in caught.value.layers)
    taken = dataclasses.replace(table, source="imported")
    with pytest.raises(
        MissingLayersError, match=r"It was imported, .*: a table of your own .* Make one: edgenas profile"
    ):
        taken.estimate_ms([other.smallest])


def test_the_command_names_another_activation(table: LatencyTable) -> None:
    other = MobileSpace("tiny", (28, 28, 1), 10, activation="hardswish")
    with pytest.raises(MissingLayersError, match="--activation hardswish"):
        table.costs(other)


def test_caches_count_alike_for_codes_and_networks(table: LatencyTable) -> None:
    """Networks that keep more than the caches hold pay for it, the others do not."""
    holding = dataclasses.replace(table, calibration=Calibration({"sum": 1.0}, 0.0, cache_kb=4000.0, refetch=0.7))
    plain = dataclasses.replace(table, calibration=Calibration())
    codes = SPACE.sample(np.random.default_rng(0), 500)
    networks = SPACE.decode_codes(codes)
    by_codes = holding.estimate_codes_ms(SPACE, codes)
    np.testing.assert_allclose(by_codes, holding.estimate_ms(networks), rtol=1e-12)
    paid = by_codes - plain.estimate_codes_ms(SPACE, codes)
    kept = np.array([sum(table.entries[x].resident_kb or 0 for x in network.layers()) for network in networks])
    assert (paid[kept <= 4000] == 0).all() and (paid[kept > 4400] > 0).all()
    assert 50 < (kept <= 4000).sum() < 450


def test_classes_between_measured_ones_are_interpolated(table: LatencyTable) -> None:
    entries = dict(table.entries)
    for dense in [layer for layer in entries if isinstance(layer.block, Dense)]:
        entries[dense] = Entry(2.0, 0.0, 9.0)
        entries[Layer(Dense(100), dense.input_shapes)] = Entry(11.0, 0.0, 9.0)
    table = dataclasses.replace(table, entries=entries)
    ten, middle, hundred, beyond, below = (SPACE.with_classes(n) for n in (10, 50, 100, 101, 9))
    codes = SPACE.sample(np.random.default_rng(0), 20)
    base, between, top = (table.estimate_codes_ms(space, codes) for space in (ten, middle, hundred))
    np.testing.assert_allclose((between - base) * 1000, 1.1 * 9 * 40 / 90)
    np.testing.assert_allclose((top - base) * 1000, 1.1 * 9)
    np.testing.assert_allclose(table.estimate_ms(middle.decode_codes(codes)), between)
    for space in (beyond, below):
        with pytest.raises(MissingLayersError, match=f"--classes {space.classes}"):
            table.estimate_codes_ms(space, codes)
        with pytest.raises(MissingLayersError, match=f"--classes {space.classes}"):
            table.estimate_ms(space.decode_codes(codes))


# Intervals


def test_intervals_hold_the_prediction_and_grow_with_coverage(table: LatencyTable) -> None:
    networks = [SPACE.smallest, SPACE.largest]
    middle = table.estimate_ms(networks)
    widths = []
    for coverage in (0.5, 0.7, 0.9):
        low, high = table.interval_ms(networks, coverage)
        assert ((low < middle) & (middle < high)).all()
        widths.append(high - low)
    assert (np.diff(widths, axis=0) > 0).all()
    # 10 networks: the 10th smallest error backs 90%, the 6th 50%.
    assert table.interval_factor(0.9) == pytest.approx(1 / 0.88)
    assert table.interval_factor(0.5) == pytest.approx(1.045)


@pytest.mark.parametrize("coverage", [0.91, 0.95, 1.0])
def test_more_coverage_than_the_certificate_backs_is_refused(table: LatencyTable, coverage: float) -> None:
    with pytest.raises(InputError, match="10 networks back a coverage of up to 91%"):
        table.interval_ms([SPACE.smallest], coverage)


@pytest.mark.parametrize("coverage", [0.0, -0.5, 1.5, math.nan])
def test_a_coverage_that_is_no_share_is_refused(table: LatencyTable, coverage: float) -> None:
    with pytest.raises(InputError, match="coverage"):
        table.interval_ms([SPACE.smallest], coverage)


def test_intervals_cover_what_they_promise() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        measured = rng.lognormal(0, 0.03, 11)
        networks = tuple(Network("n", float(value), float(value), 1.0) for value in measured[:10])
        factor = Certificate((), networks).factor(0.8)
        held.append(1 / factor <= measured[10] <= factor)
    # Split conformal prediction: at least 80%, at most 80% + 1/11; two standard errors of 400 draws.
    assert 0.8 - 0.04 <= np.mean(held) <= 0.8 + 1 / 11 + 0.04


def test_without_a_certificate_there_is_no_interval(table: LatencyTable) -> None:
    with pytest.raises(InputError, match="no certificate"):
        dataclasses.replace(table, certificate=None).interval_ms([SPACE.smallest])


def test_a_certificate_in_figures(table: LatencyTable) -> None:
    assert table.certificate is not None
    summary = table.certificate_summary()
    assert summary is not None
    assert summary["networks"] == 10
    assert summary["within_5_percent"] == pytest.approx(0.6)
    assert summary["within_10_percent"] == pytest.approx(0.9)
    assert summary["mape"] == pytest.approx(0.0475)
    assert summary["noise_floor"] == 0
    assert summary["doubt"] == "the table is simulated"


# On disk


@pytest.mark.parametrize("bare", [False, True])
def test_save_and_load_is_the_identity(table: LatencyTable, tmp_path: Path, bare: bool) -> None:
    if bare:
        identity = dataclasses.replace(table.identity, cores=None)
        table = dataclasses.replace(table, certificate=None, provenance={}, identity=identity)
    path = tmp_path / "folder" / "table.json"
    table.save(path)
    assert LatencyTable.load(path) == table
    assert LatencyTable.load(str(path)).checksum == table.checksum
    assert json.loads(path.read_text())["source"] == "simulated"


microseconds = st.floats(1e-6, 1e12)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@st.composite
def tables(draw: st.DrawFn) -> LatencyTable:
    """Any table: extreme numbers, odd names, with and without what may be missing."""
    layers = draw(st.lists(st.sampled_from(SPACE.layers()), unique=True, max_size=5))
    notations = st.builds("input_8x8x1 dense_n{}".format, st.integers(2, 99))
    network = st.builds(Network, notations, microseconds, microseconds, microseconds)
    networks = st.lists(network, max_size=3).map(tuple)
    entry = st.builds(
        Entry, microseconds, st.none() | st.floats(0, 10), st.none() | microseconds, st.none() | st.floats(0, 1e9)
    )
    coefficients = st.dictionaries(st.sampled_from(["sum", "kernel5", "macs"]), st.floats(-10, 10), max_size=3)
    return LatencyTable(
        identity=dataclasses.replace(
            IDENTITY, device=draw(texts), cpu=draw(texts), threads=draw(st.integers(1, 64)),
            cores=draw(st.none() | st.lists(st.integers(0, 63), max_size=4).map(tuple)),
        ),
        source=draw(st.sampled_from(["measured", "imported", "simulated"])),
        reference=draw(st.just(("", 0.0)) | st.tuples(texts, microseconds)),
        empty_us=draw(st.floats(0, 1e6)),
        entries={layer: draw(entry) for layer in layers},
        calibration=Calibration(
            draw(coefficients), draw(st.floats(-1e6, 1e6)), draw(st.floats(0, 1e6)), draw(st.floats(0, 2)),
            draw(networks),
        ),
        certificate=draw(st.none() | st.builds(Certificate, networks, networks)),
        provenance=draw(st.dictionaries(texts, st.none() | st.integers() | texts, max_size=3)),
    )  # fmt: skip


@given(table=tables())
def test_what_is_saved_is_loaded(table: LatencyTable, saved: Path) -> None:
    table.save(saved)
    found = LatencyTable.load(saved)
    assert found == table
    assert found.checksum == table.checksum


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved") / "table.json"


@settings(max_examples=400)
@given(data=st.data())
def test_a_changed_byte_is_found(table: LatencyTable, saved: Path, data: st.DataObject) -> None:
    few(table).save(saved)
    content = bytearray(saved.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[position]))
    saved.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(saved))):
        LatencyTable.load(saved)


def test_a_changed_number_is_found(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    few(table).save(path)
    path.write_text(path.read_text().replace('"us": 12.5', '"us": 12.6'))
    with pytest.raises(InputError, match="is damaged: its checksum does not match"):
        LatencyTable.load(path)


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_a_cut_file_is_one_clear_error(table: LatencyTable, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="cannot be read"):
        LatencyTable.load(path)


def test_names_that_are_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: LatencyTable) -> None:
    monkeypatch.chdir(tmp_path)
    few(table).save(Path("latency_tables/board-tiny.json"))
    assert "board-tiny" in table_names()
    assert LatencyTable.load("board-tiny") == few(table)
    with pytest.raises(InputError, match=r"There is no latency table 'bord-tiny'\. Did you mean 'board-tiny'"):
        LatencyTable.load("bord-tiny")
    with pytest.raises(InputError, match=r"There is no latency table nowhere/x\.json"):
        LatencyTable.load("nowhere/x.json")


SAVER = """
import dataclasses, sys
from pathlib import Path
from edgenas.latency.table import LatencyTable

path = Path(sys.argv[1])
table = LatencyTable.load(path)
turn = 0
while True:
    turn += 1
    print(turn, flush=True)
    dataclasses.replace(table, provenance={"turn": turn}).save(path)
"""


def test_killed_while_saving_leaves_a_whole_table(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    for turn in range(5):
        saver = subprocess.Popen([sys.executable, "-c", SAVER, str(path)], stdout=subprocess.PIPE)
        assert saver.stdout is not None
        with saver, saver.stdout:
            for _ in range(2 + turn):  # it has saved the one before, and is at the next
                said = int(saver.stdout.readline())
            saver.send_signal(signal.SIGKILL)
        found = LatencyTable.load(path)
        assert found.provenance["turn"] >= said - 1
        assert found.entries == table.entries
