"""Words to numbers: a byte-level BPE vocabulary (Sennrich et al. 2016) learned from the corpus's own reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from medcl.foundation.errors import UserError
from medcl.foundation.files import write_text
from medcl.foundation.types import Text

PAD, START, END = "[PAD]", "[START]", "[END]"


class Tokenizer:
    """A vocabulary and its rules. Padding is 0; every text begins with [START], so none is ever empty."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        self._inner = inner
        self._start, self._end = inner.token_to_id(START), inner.token_to_id(END)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self._inner.get_vocab_size()

    def encode(self, texts: Sequence[str], length: int) -> Text:
        """Tokens of the texts, cut or padded to `length`: ids (batch, length) int64, mask (batch, length) bool.

        Every text is padded to the same length, so that an item's tensor never depends on its neighbours.
        """
        ids = torch.zeros((len(texts), length), dtype=torch.int64)
        mask = torch.zeros((len(texts), length), dtype=torch.bool)
        for row, text in enumerate(texts):
            words = [self._start, *self._inner.encode(text, add_special_tokens=False).ids[: length - 2], self._end]
            ids[row, : len(words)] = torch.tensor(words)
            mask[row, : len(words)] = True
        return Text(ids, mask)

    def decode(self, ids: Iterable[int]) -> str:
        """The text again, lower-cased, without the special tokens."""
        return self._inner.decode(list(ids), skip_special_tokens=True)

    def save(self, path: Path) -> None:
        """Write it as JSON (Hugging Face `tokenizers` format)."""
        write_text(path, self._inner.to_str(pretty=True) + "\n")

    def to_json(self) -> str:
        """The same JSON as a string; `from_json` reads it back."""
        return self._inner.to_str()


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a vocabulary of at most `vocab_size` tokens. The same texts in any order give the same vocabulary.

    Byte-level BPE, because Hugging Face's WordPiece trainer numbers its tokens in hash order (tokenizers issue 1794).
    """
    inner = tokenizers.Tokenizer(models.BPE())
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])  # pyright: ignore[reportAttributeAccessIssue]
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return Tokenizer(inner)


def from_json(text: str) -> Tokenizer:
    """Read a tokenizer from its JSON. Raises UserError where it is none of ours."""
    try:
        inner = tokenizers.Tokenizer.from_str(text)
    except Exception as error:
        raise UserError(f"not readable as a tokenizer: {error}") from None
    if inner.token_to_id(PAD) != 0 or inner.token_to_id(START) is None or inner.token_to_id(END) is None:
        raise UserError(f"the tokenizer lacks {PAD} at 0, {START} or {END}; use the one that training wrote")
    return Tokenizer(inner)


def load(path: Path) -> Tokenizer:
    """Read a tokenizer file. Raises UserError naming the file where it is missing or broken."""
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{path}: no such file; expected the tokenizer.json that training wrote") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
