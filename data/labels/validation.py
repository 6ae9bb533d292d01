"""Holding observed labels against the truth: which pairs of a true and an observed label a regime can never give.

N rows, C classes. Dense tables are compared by blocks of rows. Where both tables are sparse, only what one of them
stores is looked at: all other entries hold one and the same pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data.labels.entries import canonical, row_blocks
from data.labels.regime import Regime
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Codes, Index, LabelTable

Pairs = frozenset[tuple[int, int]]  # of a true and an observed code

_BLOCK = 1 << 22  # entries at a time


class Rule(NamedTuple):
    """Pairs of a true and an observed label that do not go together, and what to say of them."""

    what: str
    pairs: Pairs


class Violation(NamedTuple):
    """Entries of one block that break a rule."""

    rule: int
    number: int
    first: int  # row * C + class


def require_fit(path: Path, table: LabelTable, annotations: Annotations, regime: Regime) -> None:
    """Hold labels against the truth.

    Candidates must include every true label; in the other regimes what is known must be true. Labels that are "given"
    or flipped owe the truth nothing. Where the truth is a table of known labels only, nothing else may be known.

    Args:
        path: where the labels come from, for the message.
        table: (N, C), the labels.
        annotations: their rows, classes and truth.
        regime: what they should be.

    Raises:
        UserError: naming the first row and class that do not fit, and how many do not.
    """
    rules = _rules(regime.name, annotations.truth.stores_known_only)
    broken: dict[int, Violation] = {}
    for rule, number, first in _broken(annotations.truth, table, _lookup(rules)):
        before = broken.get(rule, Violation(rule, 0, first))
        broken[rule] = Violation(rule, before.number + number, min(before.first, first))
    if broken:
        rule, number, first = min(broken.values())
        row, label = divmod(first, len(annotations.classes))
        raise UserError(
            f"{path}: does not fit the true labels: {annotations.classes[label]} {rules[rule].what} in row {row} (image"
            f" {annotations.ids[row]}), {number} such entries; use labels made for this dataset"
        )


def _rules(regime: str, known_only: bool) -> list[Rule]:
    """What labels of a regime must not be; `known_only` when unknown truth stays unknown."""
    if regime in ("given", "flip"):
        return []
    others = (ABSENT,) if known_only else (ABSENT, UNKNOWN)
    if regime == "candidate":
        rules = [Rule("is true and no candidate", frozenset({(PRESENT, ABSENT), (PRESENT, UNKNOWN)}))]
    else:
        rules = [
            Rule("is labelled present and is not", frozenset((true, PRESENT) for true in others)),
            Rule("is labelled absent and is present", frozenset({(PRESENT, ABSENT)})),
        ]
    if known_only:
        rules.append(Rule("is labelled and its truth is unknown", frozenset({(UNKNOWN, PRESENT), (UNKNOWN, ABSENT)})))
    if regime in ("candidate", "full"):
        pairs = frozenset((true, UNKNOWN) for true in (PRESENT, *others))
        rules.append(Rule(f"is unknown, which {regime} labels never are", pairs - rules[0].pairs))
    return rules


def _lookup(rules: list[Rule]) -> NDArray[np.int8]:
    """(3, 3) the rule that a pair breaks, -1 for none; a code's place is the code, for -1 is the last one too."""
    table = np.full((3, 3), -1, dtype=np.int8)
    for number, rule in enumerate(rules):
        for pair in rule.pairs:
            table[pair] = number
    return table


def _broken(truth: LabelTable, table: LabelTable, lookup: NDArray[np.int8]) -> Iterator[Violation]:
    """What breaks a rule, block by block."""
    if (lookup < 0).all():
        return
    held, seen = truth.codes, table.codes
    if isinstance(held, csr_array) and isinstance(seen, csr_array):
        yield from _broken_stored(truth, table, lookup)
        return
    for first, last in row_blocks(len(truth), truth.num_classes, _BLOCK):
        rule = lookup[truth.rows(slice(first, last)), table.rows(slice(first, last))].reshape(-1)
        yield from _found(rule, np.arange(first * truth.num_classes, last * truth.num_classes))


def _broken_stored(truth: LabelTable, table: LabelTable, lookup: NDArray[np.int8]) -> Iterator[Violation]:
    """The same for two sparse tables, by what they store."""
    classes, elsewhere = truth.num_classes, int(lookup[truth.default, table.default])
    for first, last in row_blocks(len(truth), classes, _BLOCK):
        (true_keys, true), (seen_keys, seen) = _stored(truth, first, last), _stored(table, first, last)
        place = np.searchsorted(true_keys, seen_keys)
        both = np.append(true_keys, -1)[place] == seen_keys
        expected = np.full(len(seen), truth.default, dtype=np.int8)
        expected[both] = true[place[both]]
        yield from _found(lookup[expected, seen], seen_keys)
        alone = np.ones(len(true), dtype=np.bool_)
        alone[place[both]] = False
        yield from _found(lookup[true[alone], table.default], true_keys[alone])
        if elsewhere >= 0:
            taken = np.union1d(true_keys, seen_keys) - first * classes
            gaps = np.flatnonzero(taken != np.arange(len(taken)))
            free = (last - first) * classes - len(taken)
            if free:
                yield Violation(elsewhere, free, first * classes + int(gaps[0] if len(gaps) else len(taken)))


def _stored(table: LabelTable, first: int, last: int) -> tuple[Index, Codes]:
    """Places (row * C + class), ascending, and codes of what is stored in some rows."""
    held = canonical(table)
    starts = held.indptr[first : last + 1]
    part = slice(starts[0], starts[-1])
    rows = np.repeat(np.arange(first, last, dtype=np.int64), np.diff(starts))
    return rows * table.num_classes + held.indices[part], held.data[part]


def _found(rule: NDArray[np.int8], keys: Index) -> Iterator[Violation]:
    """The rules that entries (E,) at `keys` break, from the numbers of those rules, -1 for none."""
    wrong = rule >= 0
    if wrong.any():
        for one in np.unique(rule[wrong]).tolist():
            hit = keys[rule == one]
            yield Violation(one, len(hit), int(hit.min()))
