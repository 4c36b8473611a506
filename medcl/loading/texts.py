"""The report of each row of the store, its sentences, and the one a step sees."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from medcl.encoders.tokenizer import Tokenizer
from medcl.foundation.randomness import generator
from medcl.foundation.types import Text
from medcl.ingest.report_text import split_sentences

if TYPE_CHECKING:
    import pandas as pd

_WORD = re.compile(r"[^\W\d_]{2,}")


def report_of_rows(index: pd.DataFrame, reports: pd.DataFrame) -> list[str]:
    """The text of each row of the store's index: findings and impression where the report has them, else all of it; "" without one."""
    texts = {str(report["report_id"]): _body(report) for report in reports.to_dict("records")}
    return [texts.get(str(report_id), "") for report_id in index["report_id"]]


def sentences(text: str) -> tuple[str, ...]:
    """The sentences of a report that hold at least two words; the whole text where none does."""
    kept = tuple(part for part in split_sentences(text) if len(_WORD.findall(part)) >= 2)
    return kept or ((text.strip(),) if text.strip() else ())


class ReportTexts:
    """Sentences drawn and tokenised for batches. texts: one report per row of the store ("" where there is none)."""

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer, length: int) -> None:
        self.tokenizer = tokenizer
        self.length = length
        self._sentences = [sentences(text) for text in texts]

    def has_text(self, row: int) -> bool:
        """Whether the row comes with a report."""
        return bool(self._sentences[row])

    def draw(self, row: int, key: tuple[int, int, int]) -> str:
        """One sentence, each as likely as the others (ConVIRT, section 2.3): a pure function of the row and key (seed, step, item)."""
        choices = self._sentences[row]
        seed, step, item = key
        return choices[int(generator(seed, "sentence", step, item).integers(len(choices)))]

    def encode(self, texts: Sequence[str]) -> Text:
        """Tokens of the texts."""
        return self.tokenizer.encode(texts, self.length)


def _body(report: dict) -> str:
    sections = [report.get(name) for name in ("findings", "impression")]
    found = [section.strip() for section in sections if isinstance(section, str) and section.strip()]
    whole = report.get("text")
    return "\n".join(found) if found else (whole if isinstance(whole, str) else "")
