from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from medcl.encoders import TextTransformerConfig, build_seeded, tokenizer
from medcl.encoders.heads import ProjectionHead
from medcl.foundation import config
from medcl.foundation.errors import UserError
from medcl.foundation.types import Text

REPORTS = [
    f"No {word} in the {side} lung. Heart size is normal." for word in ("effusion", "nodule", "oedema") for side in ("left", "right")
]


def test_the_same_reports_in_any_order_give_the_same_vocabulary() -> None:
    first = tokenizer.train(REPORTS, 350).to_json()
    for seed in range(5):
        shuffled = random.Random(seed).sample(REPORTS, len(REPORTS))
        assert tokenizer.train(shuffled, 350).to_json() == first


def test_encode_pads_cuts_and_reads_back() -> None:
    words = tokenizer.train(REPORTS, 400)
    text = words.encode(["No effusion in the left lung.", "", "heart " * 50], 12)
    assert text.ids.shape == text.mask.shape == (3, 12)
    assert words.decode(text.ids[0].tolist()).strip() == "no effusion in the left lung."
    assert text.mask[1].tolist() == [True, True] + [False] * 10
    assert bool(text.mask[2].all())
    assert int(text.ids[~text.mask].sum()) == 0 and int(text.ids.max()) < words.vocab_size <= 400


def test_unknown_letters_survive() -> None:
    words = tokenizer.train(REPORTS, 300)
    assert words.decode(words.encode(["Épanchement 肺"], 32).ids[0].tolist()).strip() == "épanchement 肺"


def test_a_tokenizer_file_reads_back_and_a_broken_one_is_named(tmp_path: Path) -> None:
    words = tokenizer.train(REPORTS, 350)
    words.save(tmp_path / "tokenizer.json")
    assert tokenizer.load(tmp_path / "tokenizer.json").to_json() == words.to_json()
    (tmp_path / "broken.json").write_text("{}")
    for name in ("broken.json", "absent.json"):
        with pytest.raises(UserError, match=name):
            tokenizer.load(tmp_path / name)


def _network() -> torch.nn.Module:
    return build_seeded(TextTransformerConfig(vocab_size=300, length=16, width=32, layers=2, heads=4), seed=0).eval()


def test_padding_and_neighbours_change_nothing() -> None:
    network = _network()
    ids = torch.randint(3, 300, (2, 6))
    short = Text(ids, torch.ones(2, 6, dtype=torch.bool))
    padded = Text(torch.cat([ids, torch.randint(3, 300, (2, 4))], 1), torch.cat([short.mask, torch.zeros(2, 4, dtype=torch.bool)], 1))
    with torch.no_grad():
        torch.testing.assert_close(network(short), network(padded))
        torch.testing.assert_close(network(short)[:1], network(Text(ids[:1], short.mask[:1])))
    assert network(short).shape == (2, 32)


def test_word_order_matters() -> None:
    network = _network()
    mask = torch.ones(1, 3, dtype=torch.bool)
    with torch.no_grad():
        assert not torch.allclose(network(Text(torch.tensor([[5, 6, 7]]), mask)), network(Text(torch.tensor([[7, 6, 5]]), mask)))


def test_width_must_fit_the_heads() -> None:
    with pytest.raises(UserError, match="no multiple of heads"):
        config.validate(TextTransformerConfig, {"width": 30, "heads": 4}, "a.yaml")


def test_head_is_its_formula() -> None:
    head = ProjectionHead(4, 3)
    rows = torch.randn(5, 4)
    hidden = torch.relu(rows @ head.hidden.weight.T + head.hidden.bias)
    torch.testing.assert_close(head(rows), hidden @ head.out.weight.T + head.out.bias)
