"""`evaluate.py --push_to`: a model for the Hugging Face Hub, its weights as safetensors and a card with its figures."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import yaml

from engine.core.checkpoint import SavedModel, save_safetensors
from engine.core.hub import MODEL_FILE, endpoint, hub_library, hub_reason, is_repository
from engine.evaluation.scored import Scored
from engine.evaluation.uncertainty import uncertainty_lines
from utils.checks import RunError, UserError, require
from utils.options import BETWEEN_PATHS
from utils.types import Annotations

_ROWS = 500
"""Classes in the table of a card."""


class Card(NamedTuple):
    """What the card of a model tells."""

    repository: str
    saved: SavedModel
    test: Annotations
    scored: Scored
    dataset: str
    regime: str
    """The labels of its training, in words."""


def require_pushable(repository: str | None, saved: SavedModel, ensemble: Path | None) -> None:
    """Raise UserError if a model cannot be pushed, before it is scored; None for what is not to be pushed."""
    if repository is None:
        return
    what = f"--push_to {repository}"
    require(is_repository(repository), f"{what}: name it OWNER/NAME")
    require(
        saved.released is None and bool(saved.classes),
        f"{what}: {saved.path} is not a checkpoint of this project that names its classes; make one of it with "
        "--save_as FILE.safetensors --dataset NAME, and push that if its licence allows",
    )
    require(ensemble is None, f"{what}: the figures would be those of two; leave --ensemble {ensemble} out")
    try:
        hub_library(what).HfApi(endpoint=endpoint()).whoami()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {hub_reason(error)}") from None


def push(card: Card) -> str:
    """Push a model in one commit, to a repository that is made, private, where there is none; its address.

    Raises: RunError when the hub refuses; the repository has all of it or nothing new.
    """
    library = hub_library("--push_to")
    saved = replace(card.saved, settings=shareable(card.saved.settings))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / MODEL_FILE
        save_safetensors(file, saved, saved.classes, {})
        parts = {MODEL_FILE: str(file), "README.md": card_text(card._replace(saved=saved)).encode()}
        try:
            api = library.HfApi(endpoint=endpoint(), library_name="partial-truth")
            api.create_repo(card.repository, private=True, exist_ok=True)
            added = [library.CommitOperationAdd(name, content) for name, content in parts.items()]
            message = f"Epoch {saved.epoch}, scored on {card.dataset}"
            done = api.create_commit(card.repository, added, commit_message=message)
        except Exception as error:
            raise RunError(f"--push_to {card.repository}: not pushed: {hub_reason(error)}") from None
    return f"hf://{card.repository}@{done.oid}"


def shareable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the last part alone of paths from the root, which would tell of the machine and its user."""
    return {name: _shareable(value) for name, value in settings.items()}


def _shareable(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return BETWEEN_PATHS.join(map(_last_part, value.split(BETWEEN_PATHS)))


def _last_part(text: str) -> str:
    for kind in (PureWindowsPath, PurePosixPath):
        if (kind(text).is_absolute() or text.startswith("~")) and kind(text).name:
            return kind(text).name
    return text


def card_text(card: Card) -> str:
    """The card, Markdown with the hub's YAML before it."""
    saved, figures = card.saved, card.scored.measured.metrics.as_dict()
    name = card.repository.partition("/")[2]
    shown = ("model", "head", "img_size")
    network = ", ".join(f"`{key}` {saved.settings[key]}" for key in shown if saved.settings.get(key) is not None)
    lines = [
        *("---", yaml.safe_dump(_header(card, name, figures), sort_keys=False, allow_unicode=True).rstrip(), "---"),
        *(f"# {name}", ""),
        f"A multi-label image classifier of {saved.num_classes:,} classes ({network}), trained with partial-truth.",
        *("", "## Data", "", f"- Dataset: {_cell(card.dataset)}", f"- Labels of training: {_cell(card.regime)}"),
        f"- Weights of epoch {saved.epoch}",
        *("", "## Figures", "", f"On the test set of {_cell(card.dataset)}, {len(card.test):,} images:", ""),
        *("| figure | % |", "| --- | ---: |", *(f"| {key} | {100 * value:.2f} |" for key, value in figures.items())),
        *("", *(f"- {_cell(line)}" for line in _remarks(card.scored))),
        *("", "## Classes and thresholds", "", *_thresholds(card.scored), "", *_class_table(card)),
        *("", "## Use", "", f"    python predict.py photos/ --load_from hf://{card.repository}"),
        f"    python evaluate.py --load_from hf://{card.repository} --dataset {card.dataset}",
        *("", "A figure says how the model does on images like those of that test set, and nothing of others."),
        *("", "## Settings of the run", ""),
        *(f"    {line}" for line in _yaml(saved.settings)),
    ]
    return "\n".join(lines) + "\n"


def _header(card: Card, name: str, figures: Mapping[str, float]) -> dict[str, Any]:
    """What the hub itself reads: kind, tags, and figures as fractions."""
    metrics = [{"type": key, "value": round(value, 6)} for key, value in figures.items() if value == value]
    task = {"task": {"type": "image-classification"}, "dataset": {"type": card.dataset, "name": card.dataset}}
    return {
        "library_name": "partial-truth",
        "pipeline_tag": "image-classification",
        "tags": ["multi-label", "partial-truth"],
        "model-index": [{"name": name, "results": [{**task, "metrics": metrics}]}],
    }


def _remarks(scored: Scored) -> list[str]:
    """Intervals, and figures at the thresholds, if any."""
    lines = [] if scored.uncertainty is None else uncertainty_lines(scored.uncertainty)
    if scored.decided is not None and scored.decided.at_thresholds is not None:
        named = scored.decided.at_thresholds._asdict().items()
        lines.append("at the thresholds: " + ", ".join(f"{name} {100 * value:.2f}" for name, value in named))
    return lines


def _thresholds(scored: Scored) -> Iterator[str]:
    """What thresholds and calibration are."""
    decisions = None if scored.decided is None else scored.decided.decisions
    if decisions is None or decisions.thresholds is None:
        yield "No thresholds were chosen; figures of classes are those at a probability of .5."
    else:
        yield f"Thresholds by {decisions.thresholds.rule}, chosen on {_cell(decisions.thresholds.chosen_on)}."
    if decisions is not None and decisions.calibration is not None:
        yield f"Calibration by {decisions.calibration.method}, fitted on {_cell(decisions.calibrated_on)}."


def _class_table(card: Card) -> Iterator[str]:
    """A line per class."""
    decided = card.scored.decided
    if decided is None:
        return
    limits = decided.decisions.threshold_probabilities()
    yield "| class | positives | AP % | precision % | recall % | threshold |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for k, row in enumerate(decided.classes.as_dicts(card.test.classes)[:_ROWS]):
        cells = ["-" if row[name] is None else f"{100 * row[name]:.2f}" for name in ("AP", "precision", "recall")]
        limit = 0.5 if limits is None else float(limits[k])
        yield f"| {_cell(row['class'])} | {row['positives']:,} | {' | '.join(cells)} | {limit:.4f} |"
    if len(card.test.classes) > _ROWS:
        yield f"\nThe first {_ROWS} of {len(card.test.classes):,} classes."


def _cell(text: str) -> str:
    """A text of the user's in Markdown: on one line, and neither markup nor the end of a cell."""
    for letter in "\\`*_[]<>|#":
        text = text.replace(letter, f"\\{letter}")
    return " ".join(text.split())


def _yaml(settings: Mapping[str, Any]) -> list[str]:
    """Settings that say something, a line each."""
    told = {name: value for name, value in settings.items() if value not in (None, "", False)}
    return yaml.safe_dump(told, sort_keys=True, allow_unicode=True, width=10**6).splitlines()
