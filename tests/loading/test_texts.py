from __future__ import annotations

import collections

import pandas as pd

from medcl.encoders import tokenizer
from medcl.loading.texts import ReportTexts, report_of_rows, sentences

INDEX = pd.DataFrame({"report_id": ["a", "b", "", "missing", "c"]})
REPORTS = pd.DataFrame(
    {
        "report_id": ["a", "b", "c"],
        "text": ["All of a.", "TECHNIQUE: chest. Findings: clear lungs.", "Only text here."],
        "findings": ["Lungs are clear.", "Clear lungs.", None],
        "impression": ["No acute disease.", "", float("nan")],
    }
)


def test_findings_and_impression_come_before_the_rest() -> None:
    assert report_of_rows(INDEX, REPORTS) == ["Lungs are clear.\nNo acute disease.", "Clear lungs.", "", "", "Only text here."]
    assert report_of_rows(INDEX, REPORTS[["report_id", "text"]])[0] == "All of a."


def test_sentences() -> None:
    assert sentences("Nodule of 1.2 cm on the left. No effusion.\n\nHeart: enlarged.") == (
        "Nodule of 1.2 cm on the left.",
        "No effusion.",
        "Heart: enlarged.",
    )
    assert sentences("1. Clear lungs. 2. Normal heart.") == ("Clear lungs.", "Normal heart.")
    assert sentences("Normal.") == ("Normal.",)
    assert sentences("  \n ") == ()


def test_every_sentence_is_drawn_and_the_draw_is_a_function_of_its_key() -> None:
    texts = ["One is here. Two is here. Three is here.", ""]
    reports = ReportTexts(texts, tokenizer.train(texts, 300), 12)
    drawn = [reports.draw(0, (0, step, 0)) for step in range(300)]
    assert drawn == [reports.draw(0, (0, step, 0)) for step in range(300)]
    counts = collections.Counter(drawn)
    assert len(counts) == 3 and min(counts.values()) > 60
    assert drawn != [reports.draw(0, (1, step, 0)) for step in range(300)]
    assert reports.has_text(0) and not reports.has_text(1)
    assert reports.encode(drawn[:2]).ids.shape == (2, 12)
