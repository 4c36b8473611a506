"""Recall against a loop, chance against enumeration."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from medcl.evaluation.retrieval import retrieve


def test_recall_equals_the_loop() -> None:
    rng = np.random.default_rng(0)
    text_of = np.array([0, 1, 1, 2, 3, 4, 4, 4])
    images, texts = rng.normal(size=(8, 5)), rng.normal(size=(5, 5))
    found = retrieve(images, texts, text_of, first=(1, 3))
    cosine = np.array([[i @ t / np.linalg.norm(i) / np.linalg.norm(t) for t in texts] for i in images])
    for place, k in enumerate((1, 3)):
        for image in range(8):
            first_texts = np.argsort(-cosine[image])[:k]
            assert found.measured.values[image, place] == (text_of[image] in first_texts)
            # the best of a report's own images must be among the first k; the report's other images do not stand in its way
            text = text_of[image]
            others = [other for other in range(8) if text_of[other] != text]
            best = cosine[text_of == text, text].max()
            rank = sum(cosine[other, text] >= best for other in others)
            assert found.measured.values[image, 2 + place] == (rank < k)


def test_perfect_and_hopeless() -> None:
    eye = np.eye(6)
    assert retrieve(eye, eye, np.arange(6)).measured.values.min() == 1
    same = retrieve(np.ones((6, 6)), np.ones((6, 6)), np.arange(6), first=(1,))
    assert same.measured.values.max() == 0, "a collapsed model retrieves nothing, whatever the order of the rows"


def test_what_is_no_number_is_never_found() -> None:
    images, texts = np.eye(6), np.eye(6)
    images[2], texts[4] = np.nan, np.nan
    values = retrieve(images, texts, np.arange(6), first=(1,)).measured.values
    assert values[[2, 4]].max() == 0
    assert retrieve(np.full((6, 6), np.nan), np.eye(6), np.arange(6)).measured.values[:, [0, 3]].max() == 0


def test_chance_equals_enumeration() -> None:
    text_of = np.array([0, 0, 1, 2, 2, 2])
    found = retrieve(np.eye(6), np.eye(6)[:3], text_of, first=(2,))
    expected = np.mean([np.mean([any(text_of[i] == text for i in drawn) for drawn in combinations(range(6), 2)]) for text in text_of])
    assert found.chance["text_to_image_recall_at_2"] == pytest.approx(expected)
    assert found.chance["image_to_text_recall_at_2"] == pytest.approx(2 / 3)
