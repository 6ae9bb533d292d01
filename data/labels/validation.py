"""Comparison of observed labels with the truth: a regime excludes some pairs of a true and an observed label.

N rows, C classes. Dense tables are compared by blocks of rows. Of two sparse tables only the entries that one of them
stores are looked at: all other entries have one and the same pair.
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
    """Pairs of a true and an observed label that exclude each other, and the message about them."""

    message: str
    pairs: Pairs


class Violation(NamedTuple):
    """Entries of one block that violate a rule."""

    rule: int
    number: int
    first: int  # row * C + class


def require_fit(path: Path, table: LabelTable, annotations: Annotations, regime: Regime) -> None:
    """Check labels against the truth.

    Candidates must include every true label; in the other regimes what is known must be true. "given" and
    flipped labels are not restricted. Where the truth is a table of known labels only, nothing else may be known.

    Args:
        path: file of the labels, for the message.
        table: (N, C), the labels.
        annotations: their rows, classes and truth.
        regime: the regime they should have.

    Raises:
        UserError: naming the first row and class that do not fit, and the number of such entries.
    """
    rules = _rules(regime.name, annotations.truth.stores_known_only)
    violations: dict[int, Violation] = {}
    for rule, number, first in _compare(annotations.truth, table, _lookup(rules)):
        before = violations.get(rule, Violation(rule, 0, first))
        violations[rule] = Violation(rule, before.number + number, min(before.first, first))
    if violations:
        rule, number, first = min(violations.values())
        row, label = divmod(first, len(annotations.classes))
        raise UserError(
            f"{path}: does not fit the true labels: {annotations.classes[label]} {rules[rule].message} in row {row}"
            f" (image {annotations.ids[row]}), {number} such entries; use labels made for this dataset"
        )


def _rules(regime: str, known_only: bool) -> list[Rule]:
    """Rules for the labels of a regime; `known_only` if unknown truth stays unknown."""
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
    """(3, 3) number of the rule that a pair violates, -1 for none; indexed by codes, as -1 is also the last index."""
    table = np.full((3, 3), -1, dtype=np.int8)
    for number, rule in enumerate(rules):
        for pair in rule.pairs:
            table[pair] = number
    return table


def _compare(truth: LabelTable, table: LabelTable, lookup: NDArray[np.int8]) -> Iterator[Violation]:
    """Violations, block by block."""
    if (lookup < 0).all():
        return
    if isinstance(truth.codes, csr_array) and isinstance(table.codes, csr_array):
        yield from _compare_stored(truth, table, lookup)
        return
    for first, last in row_blocks(len(truth), truth.num_classes, _BLOCK):
        rule = lookup[truth.rows(slice(first, last)), table.rows(slice(first, last))].reshape(-1)
        yield from _violations(rule, np.arange(first * truth.num_classes, last * truth.num_classes))


def _compare_stored(truth: LabelTable, table: LabelTable, lookup: NDArray[np.int8]) -> Iterator[Violation]:
    """Violations of two sparse tables, from their stored entries."""
    classes, elsewhere = truth.num_classes, int(lookup[truth.default, table.default])
    for first, last in row_blocks(len(truth), classes, _BLOCK):
        (true_keys, true), (seen_keys, seen) = _stored(truth, first, last), _stored(table, first, last)
        position = np.searchsorted(true_keys, seen_keys)
        both = np.append(true_keys, -1)[position] == seen_keys
        expected = np.full(len(seen), truth.default, dtype=np.int8)
        expected[both] = true[position[both]]
        yield from _violations(lookup[expected, seen], seen_keys)
        alone = np.ones(len(true), dtype=np.bool_)
        alone[position[both]] = False
        yield from _violations(lookup[true[alone], table.default], true_keys[alone])
        if elsewhere != -1:
            taken = np.union1d(true_keys, seen_keys) - first * classes
            gaps = np.flatnonzero(taken != np.arange(len(taken)))
            free = (last - first) * classes - len(taken)
            if free:
                yield Violation(elsewhere, free, first * classes + int(gaps[0] if len(gaps) else len(taken)))


def _stored(table: LabelTable, first: int, last: int) -> tuple[Index, Codes]:
    """Keys (row * C + class), ascending, and codes of the entries stored in some rows."""
    stored = canonical(table)
    starts = stored.indptr[first : last + 1]
    part = slice(starts[0], starts[-1])
    rows = np.repeat(np.arange(first, last, dtype=np.int64), np.diff(starts))
    return rows * table.num_classes + stored.indices[part], stored.data[part]


def _violations(rule: NDArray[np.int8], keys: Index) -> Iterator[Violation]:
    """Violations of the entries (E,) at `keys`; `rule` (E,) is the number of the violated rule, -1 for none."""
    wrong = rule >= 0
    if wrong.any():
        for one in np.unique(rule[wrong]).tolist():
            hit = keys[rule == one]
            yield Violation(one, len(hit), int(hit.min()))
