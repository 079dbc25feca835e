"""The page of a study: whole in one file, readable on a phone, and it says what became of the study."""

import base64
import dataclasses
import re
import shutil
from pathlib import Path

import pytest

from edgenas.ledger import Ledger
from edgenas.report import write_page
from edgenas.report.curves import curves_folder, write_curves
from edgenas.strategy import Front, Point, Settings
from edgenas.strategy.settings import begin
from tests.made import BUNDLE
from tests.report.test_curves import COURSE

POINTS = [
    Point(f"{number:012x}", f"net{number}", accuracy, latency, (latency * 0.98, latency * 1.02), 40, 60, 100, number)
    for number, (accuracy, latency) in enumerate([(0.61, 0.10), (0.80, 0.15), (0.82, 0.45), (0.70, 0.40)])
]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return begin(
        Settings(study="night", data="<b>images", device="pi", table="t", space="tiny", input_shape=(8, 8, 1),
                 data_identity="d" * 64)
    )  # fmt: skip


def page_of(settings: Settings) -> str:
    path = Path("studies/night/report.html")
    write_page(settings, Front(POINTS), POINTS, {"complete": 4, "failed": 0}, "Backed.", path)
    return path.read_text()


def test_it_is_whole_and_fits_a_phone(settings: Settings) -> None:
    text = page_of(settings)
    assert '<meta name=viewport content="width=device-width">' in text
    assert "http://" not in text.replace("http://www.w3.org", "") and "<script" not in text
    assert text.count("<table") == text.count("<div class=wide><table"), "every table scrolls by itself"
    assert "&lt;b&gt;images" in text and "<b>images" not in text
    front, _, folded = text.partition("<details>")
    assert "d" * 64 not in front and "d" * 64 in folded, "hashes are folded away"
    assert "000000000001 (knee)" in text and "000000000002 (best)" in text
    assert "000000000003" not in text, "no point of the front"
    assert "Trained fully" not in text and "Put live" not in text


def test_it_says_what_became_of_the_study(settings: Settings) -> None:
    shutil.copytree(BUNDLE, "studies/night/bundles/b1")
    Path("studies/night/bundles/half").mkdir()
    ledger = Ledger(Path("studies/night/ledger.jsonl"))
    for release in (7, 8):
        ledger.append("shipped", device="pi", name="tools", release=release, candidate="abc")
    text = page_of(settings)
    assert re.search(r"<td>test accuracy</td><td>\d\d\.\d\d% \(95%: .* of the \.tflite file", text)
    assert "<td>gate: quantisation</td><td>passed: " in text
    live = text.partition("Put live from here")[2].partition("</div>")[0]
    assert "<td>pi</td><td>tools</td><td>8</td><td>abc</td>" in live and "<td>7</td>" not in live


def test_it_shows_how_a_network_was_trained_where_that_is_known(settings: Settings) -> None:
    shutil.copytree(BUNDLE, "studies/night/bundles/b1")
    shutil.copytree(BUNDLE, "studies/night/bundles/b2")
    before = page_of(settings)
    assert "Trained fully" in before and "How it was trained" not in before
    folder = curves_folder(Path("studies/night"), "b2")
    write_curves(dataclasses.replace(COURSE, advice="Give it <more> data."), folder)
    picture = base64.b64encode((folder / "curves.png").read_bytes()).decode()
    shown = (
        "<p>Give it &lt;more&gt; data.</p><p>How it was trained:</p>"
        f'<img alt="How it was trained" src="data:image/png;base64,{picture}">'
    )
    _, one, two, _ = re.split("<h3>|<h2>What it cost", page_of(settings))
    assert shown in two and "How it was trained" not in one
    write_curves(dataclasses.replace(COURSE, advice=""), folder)
    assert "<p></p>" not in page_of(settings).replace("\n", ""), "no advice, no paragraph"
