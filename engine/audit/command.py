"""`audit.py`: labels that are probably missing or wrong, images to label next, and a corrected table."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.build import DatasetConfig
from data.datasets.table.config import TableConfig
from data.labels.regime import Regime
from data.loading.loader import LoaderConfig
from engine.audit.applying import apply_decisions
from engine.audit.config import AuditConfig
from engine.audit.findings import Findings, find, listed
from engine.audit.next_images import next_csv
from engine.audit.page import audit_page
from engine.audit.ranking import KINDS
from engine.audit.recorded import with_run
from engine.audit.scores import Scored, score_features, score_given
from engine.audit.source import Read, given_logits, image_features, learned_codes, read_images
from engine.audit.tables import alike_csv, audit_csv, classes_csv, duplicates_csv
from engine.audit.text import as_text as summary
from engine.core.distributed import Runtime
from engine.core.setting_table import training_names
from engine.core.settings import Command, Settings, parse_settings
from models.build import ModelConfig
from utils.checks import require
from utils.console import say
from utils.options import as_text, is_paths
from utils.safe_files import make_folder, write_text

AUDIT = Command(
    program="audit.py",
    about="Labels that are probably missing or wrong, images to label next, or a table corrected by your decisions.",
    groups={
        "data": (DatasetConfig, LoaderConfig),
        "labels": (Regime,),
        "model": (ModelConfig,),
        "audit": (AuditConfig,),
    },
    defaults={"weights": "lite0", "batch_size": 32},
)
COMMANDS = (AUDIT,)

PAGE = "audit.html"


def audit_command(argv: Sequence[str] | None = None) -> int:
    """Audit the labels of a dataset and write what was found. Returns the exit code.

    Raises:
        UserError: the request cannot be met; nothing has been written then.
        RunError: an image cannot be read.
    """
    settings = parse_settings(AUDIT, argv, elsewhere=training_names(), completed=with_run)
    config = settings.of(AuditConfig)
    if config.apply is not None:
        apply_decisions(config.apply, settings.of(DatasetConfig))
        return 0
    folder = config.output or Path("runs") / f"audit-{settings.of(DatasetConfig).dataset}"
    if config.threads:
        torch.set_num_threads(config.threads)
    runtime = Runtime(config.device, "fp32")
    try:
        require(runtime.world_size == 1, "audit.py: works in one process; start it without a launcher")
        read = read_images(settings)
        scored = score(read, settings, runtime)
    finally:
        runtime.close()
    if config.next:
        write_next(read, scored, config.next, folder)
    else:
        write_audit(find(read.images, scored, config.least), settings, folder)
    return 0


def score(read: Read, settings: Settings, runtime: Runtime) -> Scored:
    """Probabilities of all labels, by features or by the scores of a file.

    Raises: UserError when the images do not make so many folds, or no class has enough labels.
    """
    config, images = settings.of(AuditConfig), read.images
    codes = learned_codes(images.codes, config)
    if config.scores is not None or config.run is not None:
        scored = score_given(given_logits(read, config), codes, images.groups, config.plan)
    else:
        units = len(images) if images.groups is None else len(np.unique(images.groups))
        require(
            units >= config.folds,
            f"--folds {config.folds}: {units} images, or groups of them, make no {config.folds} parts; give fewer",
        )
        scored = score_features(image_features(read, settings, runtime), codes, images.groups, config.plan)
    hint = "" if config.unknown == "absent" else ", or --unknown absent if what is unknown is mostly absent"
    require(
        bool(scored.ranked.any()),
        f"no class has {config.least} present and {config.least} absent labels, so none can be ranked; label more "
        f"images{hint}",
    )
    return scored


def write_next(read: Read, scored: Scored, count: int, folder: Path) -> None:
    """Write the images to label next. Raises: UserError when every label is known, or the folder cannot be written."""
    text = next_csv(read.images, scored, count)
    make_folder(folder, "--output")
    write_text(folder / "next.csv", text, errors="surrogateescape")
    say(f"written: {folder / 'next.csv'}, {text.count(chr(10)) - 1:,} images")


def write_audit(findings: Findings, settings: Settings, folder: Path) -> None:
    """Write all files of an audit, print its summary. Raises: UserError when the folder cannot be written."""
    config = settings.of(AuditConfig)
    suspicions = [one for kind in KINDS for one in listed(findings, kind, max(config.most, config.shown))]
    texts = {
        "audit.csv": audit_csv(findings, [one for one in suspicions if one.rank <= config.most]),
        "classes.csv": classes_csv(findings),
        "duplicates.csv": duplicates_csv(findings),
        "alike.csv": alike_csv(findings),
    }
    if config.shown:
        shown = [one for one in suspicions if one.rank <= config.shown]
        texts[PAGE] = audit_page(findings, shown, apply_command(settings))
    make_folder(folder, "--output")
    if not config.shown:
        (folder / PAGE).unlink(missing_ok=True)  # of an earlier audit
    for name, text in texts.items():
        write_text(folder / name, text, errors="backslashreplace" if name == PAGE else "surrogateescape")
    say(f"written: {folder}\n\n{summary(findings)}")


def apply_command(settings: Settings) -> str:
    """The command line that corrects the table by a file of decisions, with the flags that say how it is read.

    Where they come from, a settings file or a run, does not matter. Empty for a dataset that is no table of one's own.
    """
    if settings.of(DatasetConfig).table is None:
        return ""
    table = {field.name for field in fields(TableConfig)} | {"dataset", "path_images"}
    said = [
        name
        for name, value in settings.values.items()
        if name in table and value not in (None, settings.table[name].default)
    ]
    words = [word for name in said for word in (f"--{name}", *_texts(settings.values[name]))]
    return shlex.join(["python", "audit.py", *words, "--apply", "decisions.csv"])


def _texts(value: Any) -> list[str]:
    """The words behind a flag: each path of a list is one of its own."""
    return [as_text(one) for one in value] if is_paths(value) else [as_text(value)]
