"""The page is one file that asks nothing of anyone, shows what was measured, and runs nothing that it was given."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from medcl.evaluation.label_fraction import num_labelled
from medcl.foundation.errors import UserError
from medcl.reporting.figures import draw_reliability, not_shown, to_svg, write_figure
from medcl.reporting.page import _refusal, write_report, write_study_page
from medcl.reporting.read_runs import headline_of, read_run, shown_config
from medcl.reporting.read_study import interval, metric_words, number
from tests.made_study import write_made_study

pytestmark = pytest.mark.xdist_group("page")  # one process makes what they share

HOSTILE = "<script>window.ran = 1</script><img src=http://127.0.0.1:9/x onerror=window.ran=1>"
SMALL = {"inits": ("random", "moco"), "modes": ("linear",), "fractions": (0.05, 1.0), "resamples": 100}


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
    lines = [
        {"step": step, "loss": 5 - step / 100, "items_per_s": 40.0, "memory_gib": 2.5, "collapse/spread": 0.9}
        for step in range(10, 400, 10)
    ]
    lines[0]["leak"] = 0.0
    lines[19]["probe/balanced_accuracy"], lines[-1]["probe/balanced_accuracy"] = 0.91, 0.88
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
    assert reader.tags.count("svg") == 3 + 3 * (1 + 3 + 4), (
        "a curve for each mode; for each init its maps and its reliability at each fraction"
    )
    names = {
        f"{stem}.{form}"
        for stem in (
            "label_efficiency_finetune",
            "embedding_map_moco",
            "embedding_map_moco_by_1_sex",
            "reliability_moco",
            "reliability_moco_at_0.01",
        )
        for form in ("png", "svg", "pdf")
    }
    assert {path.name for path in (study / "figures").iterdir()} >= names
    assert (study / "page.html").stat().st_size < 3_000_000


def test_closeup_shows_calibration_classes_confusion_groups_and_cases(study: Path) -> None:
    reader = _read(study / "page.html")
    words = " ".join(reader.text.split())
    for expected in ("A closer look: fine-tuning", "With 1% of the labels", "sensitivity", "said 1", "Groups of patients", "By sex"):
        assert expected in words, expected
    assert "1 group has fewer than ten patients" in words and "Of 24 test cases it is not known" in words
    assert "The same map by scanner" in words and "Hardest cases" in words
    assert "with twice the labels" in words and "Large dots are means" in words
    keys = {f"p{case:03d}" for case in range(120)}
    assert not keys & set(words.split()), "no case is named"


def test_a_crossed_square_stands_for_what_may_not_be_shown(tmp_path: Path) -> None:
    """As a study leaves it whose scans may hold text: without their pictures."""
    study = write_made_study(tmp_path / "study", **SMALL)
    write_study_page(study)
    before = (study / "page.html").read_text()
    for name in ("neighbours", "closeup"):
        content = json.loads((study / f"{name}.json").read_text())
        content["pictures"].pop(next(iter(content["pictures"])))
        (study / f"{name}.json").write_text(json.dumps(content))
    write_study_page(study)
    page = (study / "page.html").read_text()
    assert page.count("A crossed square") == 2 and page.count(not_shown()) >= 2
    assert "A crossed square" not in before and not_shown() not in before
    assert page.count("<img") == before.count("<img")


def test_page_of_a_study_made_before_the_closeup_still_opens(tmp_path: Path) -> None:
    old = write_made_study(tmp_path / "old", **SMALL)
    for name in ("closeup.json", "learning_curves.json"):
        (old / name).unlink()
    write_study_page(old)
    words = " ".join(_read(old / "page.html").text.split())
    assert "Lines are means" in words and "A closer look" not in words


def test_page_of_a_study_that_knew_classes_only_says_the_same(tmp_path: Path) -> None:
    """As embedding_map.json, neighbours.json and closeup.json were before findings and quantities had a close-up."""
    study = write_made_study(tmp_path / "study", **SMALL)
    write_study_page(study)
    page = (study / "page.html").read_text()
    shown, near, closeup = (json.loads((study / f"{name}.json").read_text()) for name in ("embedding_map", "neighbours", "closeup"))
    shown["label"] = shown.pop("by")[0]["code"]
    del near["values"]
    for point in closeup["points"]:
        (part,) = point.pop("parts")
        point |= {"classes": part["classes"], "inits": part["inits"]}
    for name, content in (("embedding_map", shown), ("neighbours", near), ("closeup", closeup)):
        (study / f"{name}.json").write_text(json.dumps(content))
    write_study_page(study)
    assert (study / "page.html").read_text() == page


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
    for name in ("page.html", *(f"figures/label_efficiency_linear.{form}" for form in ("png", "svg", "pdf"))):
        assert (again / name).read_bytes() == (study / name).read_bytes(), name


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose title and scanner are markup."""
    folder = write_made_study(tmp_path_factory.mktemp("hostile") / "study", title=HOSTILE, group_name=HOSTILE, **SMALL)
    write_study_page(folder)
    return folder


def test_what_users_named_is_text_not_markup(hostile: Path) -> None:
    reader = _read(hostile / "page.html")
    assert "script" not in reader.tags and reader.text.count(HOSTILE) > 3


def test_transductive_stands_in_the_title(tmp_path: Path) -> None:
    folder = write_made_study(tmp_path / "study", transductive=True, **SMALL)
    write_study_page(folder)
    text = (folder / "page.html").read_text()
    title = re.search(r"<title>(.*?)</title>", text)
    assert title is not None and "(transductive)" in title[1]
    assert "pneumonia (transductive)" in text.split("<h1>")[0].split("eyebrow")[-1]


def test_colours_follow_light_and_dark(study: Path) -> None:
    text = (study / "page.html").read_text()
    svg = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert all(re.search(r"var\(--c\d\)", figure) for figure in svg)
    assert not re.findall(r"#[0-9a-f]{6}", "".join(svg)), "a fixed colour would vanish on one of the two papers"
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_report_compares_runs_and_studies(study: Path, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "ct_moco"
    shutil.copytree(run, other)
    write_report([run, study, other], tmp_path / "page.html")
    reader = _read(tmp_path / "page.html")
    assert f"{tmp_path.name}/ct_moco" in reader.text and "other/ct_moco" in reader.text, "alike names are told apart"
    assert "Not finished" in reader.text and "training loss" in reader.text and "Labels saved" in reader.text
    words = " ".join(reader.text.split())
    assert "0.880 (best 0.910 at step 200)" in words and "Collapse" in words and "6,240" in words, "probe, collapse, scans seen"
    assert "2.5 GiB" in words and "3 min" in words and "Cost over the steps" in words and "0.0%" in words
    assert "none ends ahead" in words, "the two are copies of each other"
    assert "/home/someone" not in reader.text


def test_runs_with_names_alike_are_told_apart_and_the_same_one_is_shown_once(run: Path, tmp_path: Path) -> None:
    """Curves go by name: of two runs a/lr/moco and b/lr/moco one hid the other."""
    for place in ("a", "b"):
        shutil.copytree(run, tmp_path / place / "lr" / "moco")
    write_report([tmp_path / "a" / "lr" / "moco", tmp_path / "b" / "lr" / "moco", run, run], tmp_path / "page.html")
    reader = _read(tmp_path / "page.html")
    assert "a/lr/moco" in reader.text and "b/lr/moco" in reader.text and str(tmp_path) not in reader.text
    assert "3 pretraining runs" in reader.text


@pytest.mark.parametrize("needed, total", [(94, 7000), (30, 1000), (1234, 9999), (35, 1000), (14, 14)])
def test_fraction_that_is_said_to_be_enough_is_enough(needed: int, total: int) -> None:
    refusal = {"fraction": 0.01, "num_patients": 7, "needed_patients": needed, "needed_fraction": needed / total, "reason": "few"}
    said = re.search(r"\(([\d.]+)%\)", _refusal(refusal)["needs"])
    assert said is not None and num_labelled(total, float(said[1]) / 100) >= needed


def test_settings_on_a_page_say_nothing_of_whose_machine_it_was(run: Path) -> None:
    config = (run / "config.yaml").read_text().replace("policy: ct", "policy: /home/someone/policies/ct.yaml")
    (run / "config.yaml").write_text(config + "watch: {mlflow: {uri: 'https://someone:secret@tracker.example:5000/x'}}\n")
    shown = shown_config(read_run(run))
    assert shown["store"] == "ct/store" and shown["views"]["policy"] == "policies/ct.yaml" and shown["views"]["size"] == [64, 64, 64]
    assert shown["watch"] == {"mlflow": {"uri": "https://tracker.example"}}
    assert read_run(run).config["watch"]["mlflow"]["uri"].endswith("/x"), "the run's own settings stay as they are"


def test_headline_of_runs_compares_only_what_is_alike(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().replace("0.88", "0.93"))
    runs = [read_run(run, "first"), read_run(other, "second")]
    assert headline_of(runs).startswith("second ends ahead of 1 other") and "0.930, then 0.880" in headline_of(runs)
    assert headline_of(runs[:1]) == "first: moco, 390 steps in 3 min"
    assert "by its probe none ends ahead" in headline_of([runs[0], replace(runs[0], name="again")])
    (other / "config.yaml").write_text((run / "config.yaml").read_text().replace("ct/store", "mr/store"))
    assert headline_of([runs[0], read_run(other)]) == "2 pretraining runs side by side"


def test_numbers_have_names_that_people_read() -> None:
    found = [metric_words(name) for name in ("dice", "surface_dice_2", "hd95_mm_1", "auroc_old_fracture", "my_own")]
    assert found == ["Dice", "surface Dice, 2", "95% Hausdorff distance (mm), 1", "AUROC, old_fracture", "my_own"]


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


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium here; `apt-get install chromium` lets this test run")
    return found


def _browse(chromium: str, page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a file in headless Chromium, which logs to stderr."""
    own = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    own += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--v=0"]
    return subprocess.run([chromium, *own, *flags, f"file://{page}"], capture_output=True, text=True, timeout=120)


# A page beside the one looked at: it may run scripts and measures the other, at the width of a phone or of a desk.
_MEASURE = """<iframe src="page.html" style="width:{width}px;height:800px;border:0"></iframe><pre id="found"></pre><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach(part => part.open = true);
  const shown = part => {{ const box = part.getBoundingClientRect(); return box.width > 40 && box.height > 40; }};
  const drawn = svg => [...svg.querySelectorAll("path, use")].some(part => part.getBoundingClientRect().width > 0);
  document.getElementById("found").textContent = JSON.stringify({{
    "width": root.scrollWidth, "window": root.clientWidth, "scripts": page.scripts.length, "text": root.textContent,
    "svg": page.querySelectorAll("svg").length, "shown": [...page.querySelectorAll("svg")].filter(svg => shown(svg) && drawn(svg)).length,
    "pictures": page.images.length, "loaded": [...page.images].filter(image => image.complete && image.naturalWidth > 10).length,
    "asked": document.querySelector("iframe").contentWindow.performance.getEntriesByType("resource")
      .map(entry => entry.name).filter(name => !name.startsWith("data:")),
    "ran": "ran" in document.querySelector("iframe").contentWindow,
  }});
}});
</script>"""


@pytest.mark.parametrize("width", [390, 1200])
def test_browser_shows_all_of_it_at_phone_and_desk_width(chromium: str, hostile: Path, tmp_path: Path, width: int) -> None:
    """No console message, no request, every figure and picture there, nothing wider than the window, a script tag as text."""
    page = hostile / f"measure{width}.html"
    page.write_text(_MEASURE.format(width=width))
    answer = _browse(chromium, page, tmp_path, "--allow-file-access-from-files", "--dump-dom", "--virtual-time-budget=5000")
    assert "CONSOLE" not in answer.stderr, answer.stderr
    found = json.loads(html.unescape(answer.stdout.split('<pre id="found">')[1].split("</pre>")[0]))
    assert found["window"] == width and found["width"] <= width, "something is wider than the window"
    assert found["svg"] == found["shown"] > 10 and found["pictures"] == found["loaded"] > 10
    assert HOSTILE in found["text"] and found["scripts"] == 0 and not found["ran"]
    assert found["asked"] == [], "a request would leave the file"


def test_browser_follows_the_dark_and_prints(chromium: str, study: Path, tmp_path: Path) -> None:
    """Dark paper where the reader's system is dark; all that is folded away on the screen is on paper."""
    from PIL import Image

    corners = []
    for name, flags in (("light", ()), ("dark", ("--blink-settings=preferredColorScheme=0",))):
        picture = tmp_path / f"{name}.png"
        answer = _browse(chromium, study / "page.html", tmp_path, "--window-size=900,1200", f"--screenshot={picture}", *flags)
        assert "CONSOLE" not in answer.stderr, answer.stderr
        with Image.open(picture) as shown:
            corners.append(shown.convert("L").getpixel((3, 3)))
    assert corners[0] > 240 and corners[1] < 40
    _browse(chromium, study / "page.html", tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF") and (tmp_path / "page.pdf").stat().st_size > 50_000


def test_numbers_in_a_unit_of_their_own_are_not_rounded_to_nothing() -> None:
    assert number(0.00026) == "0.000" and number(0.00026, tiny=True) == "0.00026"
    assert interval(-0.00012, 0.5, signed=True, tiny=True) == "[−0.00012, +0.500]"


def test_names_of_classes_are_no_formulas(tmp_path: Path) -> None:
    """Between two dollars matplotlib reads mathematics, and a study ended in a traceback where it could not."""
    bins = [{"said": share, "happened": share, "low": share, "high": share} for share in (0.2, 0.7)]
    for name in (r"$\frac$", "dose_$mg^$_a", "$a$<b>"):
        figure = draw_reliability({"#1f6fb2": bins}, (name, name))
        write_figure(figure, tmp_path / "figure")
        assert html.escape(name, quote=False) in to_svg(figure, "a figure")
