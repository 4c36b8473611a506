"""Which side a sentence speaks of: what a flipped picture would make a lie, in English, German, French and Spanish."""

from __future__ import annotations

import json
import re

from medcl.ingest.report_text import split_sentences

LEFT, RIGHT, BOTH = "left", "right", "both"
_WORDS = {
    LEFT: r"left(?![\s-]+(?:in\s+place|in\s+situ|the\b|against\b|behind\b|untreated\b))|leftward|link(?:s|e[rnms]?)|links\w+|gauches?"
    r"|izquierd[oa]s?|lul|lll|lingula\w*|li\.",
    RIGHT: r"right(?!\s+(?:away|now)\b)|rightward|recht(?:s|e[rnms]?)|rechts\w+|droite?s?|derech[oa]s?|rul|rml|rll|re\.",
    BOTH: r"both|bilateral\w*|bilatér\w*|bibasilar|bibasal|biapical|either\s+side"
    r"|beid(?:e[rnms]?|seits|seitig\w*)|bds\.|les\s+deux|ambos|ambas",
}
_SIDE = re.compile("|".join(rf"(?P<{side}>(?<!\w)(?:{words})(?!\w))" for side, words in _WORDS.items()), re.IGNORECASE)


def sides_of(text: str) -> tuple[str, ...]:
    """The sides named, of left, right and both, each once in this order; empty where a flip changes nothing that is said."""
    named = {match.lastgroup for match in _SIDE.finditer(text)}
    return tuple(side for side in (LEFT, RIGHT, BOTH) if side in named)


def sides_by_sentence(text: str) -> str:
    """JSON for the column `sides`: {"left": [0, 3], "both": [5]}, numbers of the sentences of `split_sentences`; {} where none."""
    places: dict[str, list[int]] = {}
    for number, sentence in enumerate(split_sentences(text)):
        for side in sides_of(sentence):
            places.setdefault(side, []).append(number)
    return json.dumps(places, sort_keys=True)
