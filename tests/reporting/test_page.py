"""The page is one file that asks nothing of anyone, shows what was measured, and runs nothing that it was given."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from medcl.foundation.errors import UserError
from medcl.reporting.page import write_report, write_study_page
from tests.made_study import write_made_study

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_made_study(tmp_path_factory.mktemp("studies") / "pneumonia", resamples=200)
    write_study_page(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "ct_moco"
    folder.mkdir()
    config = "store: /home/someone/data/ct/store\nencoder: {name: resnet, depth: 18, spatial_dims: 3}\nmethod: {name: moco}\n"
    config += "views: {policy: ct, size: [64, 64, 64]}\ntraining: {num_steps: 400, world_batch: 16}\n"
    (folder / "config.yaml").write_text(config)
    lines = [{"step": step, "loss": 5 - step / 100, "items_per_s": 40.0, "collapse/spread": 0.9} for step in range(10, 400, 10)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 400, "lo')
    return folder


class _Reader(HTMLParser):
    """Collects tags, attributes that load or run something, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data", "poster")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def _read(page: Path) -> _Reader:
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def test_study_page_holds_what_it_should(study: Path) -> None:
    reader = _read(study / "page.html")
    headline = json.loads((study / "headline.json").read_text())
    words = " ".join(reader.text.split())
    assert headline["sentence"] in words
    for expected in ("Labels saved", "Differences to random", "Refused fractions", "It needs 6 patients", "Leak guard", "gamma", "ab" * 32):
        assert expected in words, expected
    assert reader.tags.count("svg") == 3 + 3, "a curve for each mode, a map for each init"
    assert {path.name for path in (study / "figures").iterdir()} >= {"label_efficiency_finetune.png", "embedding_map_moco.png"}


def test_page_needs_nothing_from_outside(study: Path) -> None:
    reader = _read(study / "page.html")
    assert "script" not in reader.tags and "iframe" not in reader.tags and not reader.handlers
    assert all(address.startswith(("data:", "#")) for address in reader.loaded), [
        a for a in reader.loaded if not a.startswith(("data:", "#"))
    ]
    text = (study / "page.html").read_text()
    assert "default-src 'none'" in html.unescape(text)
    assert not re.search(r"url\((?!#)", text) and "@import" not in text
    for mark in re.findall(r'xlink:href="#([^"]+)"|url\(#([^)]+)\)', text):
        assert f'id="{mark[0] or mark[1]}"' in text, "a shape is used that is not there"


def test_page_is_the_same_every_time(study: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(study, again)
    write_study_page(again)
    for name in ("page.html", "figures/label_efficiency_linear.png"):
        assert (again / name).read_bytes() == (study / name).read_bytes(), name


def test_what_users_named_is_text_not_markup(tmp_path: Path) -> None:
    folder = write_made_study(tmp_path / "study", title=HOSTILE, resamples=100)
    write_study_page(folder)
    reader = _read(folder / "page.html")
    assert "script" not in reader.tags
    assert HOSTILE in reader.text


def test_transductive_stands_in_the_title(tmp_path: Path) -> None:
    folder = write_made_study(tmp_path / "study", transductive=True, resamples=100)
    write_study_page(folder)
    text = (folder / "page.html").read_text()
    title = re.search(r"<title>(.*?)</title>", text)
    assert title is not None and "(transductive)" in title[1]
    assert "pneumonia (transductive)" in text.split("<h1>")[0].split("eyebrow")[-1]


def test_colours_follow_light_and_dark(study: Path) -> None:
    text = (study / "page.html").read_text()
    svg = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert all("var(--c0)" in figure or "var(--c1)" in figure for figure in svg)
    assert not re.findall(r"#[0-9a-f]{6}", "".join(svg)), "a fixed colour would vanish on one of the two papers"
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_report_compares_runs_and_studies(study: Path, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "ct_moco"
    shutil.copytree(run, other)
    write_report([run, study, other], tmp_path / "page.html")
    reader = _read(tmp_path / "page.html")
    assert f"{tmp_path.name}/ct_moco" in reader.text and "other/ct_moco" in reader.text, "alike names are told apart"
    assert "Not finished" in reader.text and "training loss" in reader.text and "Labels saved" in reader.text
    assert "/home/someone" not in reader.text


def test_folder_that_is_neither_is_refused(tmp_path: Path, study: Path) -> None:
    with pytest.raises(UserError, match="neither a RUN"):
        write_report([tmp_path], tmp_path / "page.html")
    with pytest.raises(UserError, match="at least one"):
        write_report([], tmp_path / "page.html")
    torn = tmp_path / "torn"
    shutil.copytree(study, torn)
    (torn / "card.json").unlink()
    with pytest.raises(UserError, match="not whole"):
        write_report([torn], tmp_path / "page.html")


def test_browser_shows_it_without_complaint(study: Path, tmp_path: Path) -> None:
    """Headless Chromium: no console message, no request, nothing wider than a phone."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here; `apt-get install chromium` lets this test run")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        f"--user-data-dir={tmp_path}",
        "--hide-scrollbars",
    ]
    picture = tmp_path / "page.png"
    command = [
        chromium,
        *flags,
        "--enable-logging=stderr",
        "--v=0",
        "--window-size=390,900",
        f"--screenshot={picture}",
        f"file://{study / 'page.html'}",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert picture.stat().st_size > 10_000
    assert "CONSOLE" not in answer.stderr, answer.stderr
