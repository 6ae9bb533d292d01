"""`generate_labels.py`: observed labels of a dataset, written for the training scripts to find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.build import LABEL_FOLDER, DatasetConfig, load_splits
from data.datasets.formatted import names_below, write_formatted
from data.labels.files import own_path, published_path, write_native, write_published
from data.labels.regime import Regime, observe
from engine.core.setting_table import training_names
from engine.core.settings import Command, parse_settings
from utils.checks import require
from utils.console import say
from utils.options import option
from utils.types import Splits


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """The label file and its format."""

    seed: int = option(0, "seed of the dataset, and of the labels unless --label_seed is given")
    out: Path | None = option(None, "file to write (default: the path that the training scripts read)")
    published: bool = option(False, "write the published form of CoNeS, a pickled dict, instead of a plain array")
    formatted: Path | None = option(None, "write the single-positive papers' formatted arrays to this folder instead")
    overwrite: bool = option(False, "replace a file that is there")

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"--seed {self.seed}: must not be negative")
        named = self.out is None or self.out.suffix in (".npy", ".npz")
        require(named, f"--out {self.out}: must end in .npy (.npz for a dataset that is stored sparse)")
        require(
            self.formatted is None or (self.out is None and not self.published),
            "--formatted: writes a folder of arrays; leave --out and --published out",
        )


GENERATE = Command(
    program="generate_labels.py",
    about="Write the observed labels of a dataset under a seeded regime; needs its annotations, not its images.",
    groups={"data": (DatasetConfig,), "labels": (Regime,), "output": (OutputConfig,)},
    defaults={"dataset": "voc07"},
)
COMMANDS = (GENERATE,)


def generate_command(argv: Sequence[str] | None = None) -> int:
    """Draw the labels of `--labels`, write them, print a summary. Return the exit code."""
    settings = parse_settings(GENERATE, argv, elsewhere=training_names())
    config, output, regime = settings.of(DatasetConfig), settings.of(OutputConfig), settings.of(Regime)
    require(regime.label_file is None, "--label_file: names labels to read; here --out names the file to write")
    splits, regime = load_splits(config, output.seed, need_images=False), regime.with_seed(output.seed)
    require(
        splits.train.truth.soft is None,
        "--soft_labels keep: files of labels hold labels that are present or absent; take threshold=0.5",
    )
    if output.formatted is not None:
        return _write_arrays(output.formatted, splits, config, regime, overwrite=output.overwrite)
    train = splits.train
    default_path = published_path if output.published else own_path
    path = output.out or default_path(LABEL_FOLDER, config.dataset, regime, train)
    require(output.overwrite or not path.exists(), f"{path}: exists already; name another --out, or add --overwrite")
    table = observe(train, regime)
    write = write_published if output.published else write_native
    write(path, table, train, config.dataset, regime)
    known = ", ".join(f"{table.counts(code).sum() / len(table):.3f} {name}" for name, code in _CODES)
    say(f"{path}: {len(table)} x {table.num_classes}, {regime.describe()}, seed {regime.seed}")
    say(f"an image has on average {known}; hash {table.hash()[:12]}")
    return 0


def _write_arrays(folder: Path, splits: Splits, config: DatasetConfig, regime: Regime, *, overwrite: bool) -> int:
    """Write the formatted arrays; as published, the test labels are drawn by a generator of the same seed."""
    observed = [observe(part, regime) for part in (splits.train, splits.test)]
    name_of = names_below(config.path_images or Path())
    write_formatted(folder, splits, observed[0], observed[1], name_of, overwrite=overwrite)
    sizes = f"{len(splits.train)} + {len(splits.test)} x {splits.train.truth.num_classes}"
    say(f"{folder}/formatted_*.npy: {sizes}, {regime.describe()}, seed {regime.seed}")
    return 0


_CODES = (("present", 1), ("absent", 0), ("unknown", -1))
