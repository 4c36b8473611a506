"""A small file that would become large is no scan: what is compressed is asked for its size before anything is allocated."""

from __future__ import annotations

from medcl.ingest.ledger import Refused

# Beyond the harmless size a file may become so many times its own; scans shrink by less than a hundredth of that.
HARMLESS_BYTES, MOST_GROWTH = 2**26, 256


def refuse_growth(needed: int, size: int, harmless: int = HARMLESS_BYTES) -> None:
    """Raise Refused for a file of `size` bytes that would become `needed` bytes, where no scan shrinks so far."""
    if needed > max(harmless, MOST_GROWTH * size):
        raise Refused("too_large", f"{needed} bytes out of {size}")
