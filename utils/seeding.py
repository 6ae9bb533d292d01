"""Seeds for the parts of a run, derived from its one seed."""

from __future__ import annotations

import hashlib
import json
import operator


def derive_seed(*parts: int | str) -> int:
    """A seed of 63 bits from whole numbers and words, the same on every machine and in every process.

    BLAKE2b of the parts in order, types included: seeds of (1, 2), (12), ("1", 2) and (2, 1) all differ.

    Args:
        parts: numbers of any size and sign, numpy's included, and words that the seed depends on.

    Raises:
        TypeError: a part is neither a whole number nor a word.
    """
    plain = [part if isinstance(part, str) else int(operator.index(part)) for part in parts]
    digest = hashlib.blake2b(json.dumps(plain).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
