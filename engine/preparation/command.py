"""`prepare_data.py`: a dataset from its official archives, or the steps to get it."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.datasets import DATASETS, SYNONYMS
from data.download.commands import commands
from data.download.prepare import prepare
from data.download.sources import SOURCES, Source
from engine.core.setting_table import training_names
from engine.core.settings import Command, parse_settings
from engine.core.settings_files import read_yaml
from engine.preparation.pages import needs_nothing, page_of, steps, terms
from utils.checks import UserError, require
from utils.console import say, show, warn
from utils.nearest import nearest
from utils.options import option

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "datasets"


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Where a dataset is put, and what is done."""

    path_images: Path | None = option(
        None, "folder that gets the dataset (default: where training looks for it)", aliases=("data_dir",)
    )
    archives: Path | None = option(
        None, "folder in which archives are looked for, downloaded to and kept (default: removed once unpacked)"
    )
    print: bool = option(False, "print the commands that do the same, or the steps of the dataset's page, and stop")


PREPARE = Command(
    program="prepare_data.py",
    about=f"Download a dataset ({', '.join(SOURCES)}), or print the steps to get it (all others).",
    groups={"data": (PrepareConfig,)},
    words="DATASET",
)
COMMANDS = (PREPARE,)


def prepare_command(argv: Sequence[str] | None = None, sources: Mapping[str, Source] = SOURCES) -> int:
    """Download a dataset, or print how to get it.

    Args:
        argv: the command line without the program, None for the real one.
        sources: the datasets that can be downloaded.

    Returns:
        The exit code: 0 if the dataset is there now, or was only to be printed.

    Raises:
        UserError: the request cannot be met; nothing has been written then.
        RunError: what had begun could not go on.
    """
    settings = parse_settings(PREPARE, argv, elsewhere=training_names())
    name, config = dataset_of(settings.words), settings.of(PrepareConfig)
    if name not in sources:
        return print_steps(name, only_print=config.print)
    folder = config.path_images or Path(read_yaml(CONFIGS / f"{name}.yaml")["path_images"])
    if config.print:
        show(f"# {name}: {told(sources[name])}")
        for line in commands(sources[name], folder, config.archives or folder):
            show(line)
        return 0
    return download(name, sources[name], folder, config.archives)


def dataset_of(words: Sequence[str]) -> str:
    """The dataset that a command line names. Raises: UserError."""
    require(len(words) == 1, f"prepare_data.py: name one dataset, such as {next(iter(SOURCES))}")
    name = SYNONYMS.get(words[0], words[0])
    close = nearest(name, DATASETS)
    hint = f"; did you mean {close}?" if close else f"; there are {', '.join(DATASETS)}"
    require(name in DATASETS, f"prepare_data.py: no dataset {words[0]!r}{hint}")
    return name


def told(source: Source) -> str:
    """How much there is to download, and the terms."""
    size = sum(archive.size for archive in source.archives)
    return f"{size / 1e9:.1f} GB in {len(source.archives)} archives; {source.terms}".replace("1 archives", "1 archive")


def download(name: str, source: Source, folder: Path, archives: Path | None) -> int:
    """Download a dataset, and say what to do with it. Returns the exit code. Raises: UserError, RunError."""
    say(f"{name}: {told(source)}")
    try:
        new = prepare(name, source, folder, archives)
    except KeyboardInterrupt:
        warn("interrupted; what is downloaded stays, and the same command goes on")
        return 128 + signal.SIGINT
    say(
        f"{name}: {'in' if new else 'was already in'} {folder}; look at it with: python inspect_data.py --dataset "
        f"{name} --path_images {folder}"
    )
    return 0


def print_steps(name: str, *, only_print: bool) -> int:
    """Print the beginning of the page of a dataset. Returns the exit code.

    Raises: UserError, after printing, where a download was asked for and something has to be done by hand.
    """
    page = page_of(name)
    text = page.read_text("utf-8")
    show(steps(text))
    if only_print or needs_nothing(text):
        return 0
    if terms(text):
        raise UserError(f"{name}: nothing is downloaded: a person has to read and accept its terms first ({page})")
    raise UserError(f"{name}: nothing is downloaded: its steps are done by hand; they are above, more in {page}")
