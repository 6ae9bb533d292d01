"""`configs/released.yaml`: results that papers report for the checkpoints they released, and the test view of each."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from data.datasets import DATASETS
from data.loading.resizing import RESIZERS
from data.loading.transforms import NORMALIZATIONS
from engine.core.setting_table import CONFIGS
from models.released import FAMILIES
from models.released.contents import HeadOverrides
from utils.checks import UserError, require
from utils.nearest import nearest

MANIFEST = CONFIGS / "released.yaml"

_NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Preparation(NamedTuple):
    """Preparation of images: side of the square in pixels, scale of the pixel values, way to resize."""

    img_size: int
    normalize: str
    resize: str = "antialias"


@dataclass(frozen=True, kw_only=True)
class FamilyDefaults:
    """Defaults for the checkpoints of a family that have no entry of their own."""

    img_size: int
    normalize: str
    source: str
    resize: str = "antialias"
    order: tuple[str, ...] = ()
    """Datasets whose classes have the same order here and in the published code."""
    differs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Other values of `img_size`, `normalize` and `resize` for some datasets."""

    def view(self, dataset: str | None) -> Preparation:
        """Preparation of the images of a dataset; None: the dataset is not known."""
        defaults = {"img_size": self.img_size, "normalize": self.normalize, "resize": self.resize}
        return Preparation(**{**defaults, **self.differs.get(dataset or "", {})})


@dataclass(frozen=True, kw_only=True)
class Published:
    """A result that a paper or its code reports for one network."""

    name: str
    family: str
    paper: str
    dataset: str
    split: str
    img_size: int
    normalize: str
    metrics: Mapping[str, float]
    """In percent, by the names of the metrics table."""
    source: str
    resize: str = "antialias"
    file: str | None = None
    sha256: str | None = None
    network: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `HeadOverrides`."""
    note: str = ""

    @property
    def overrides(self) -> HeadOverrides:
        """Settings of the network that its weights do not show."""
        return HeadOverrides(**self.network)

    @property
    def view(self) -> Preparation:
        """Preparation of the images."""
        return Preparation(self.img_size, self.normalize, self.resize)


@dataclass(frozen=True)
class Manifest:
    """Families of released checkpoints, and published results by name."""

    families: Mapping[str, FamilyDefaults]
    checkpoints: Mapping[str, Published]

    def named(self, name: str) -> Published:
        """Return the entry `name`. Raises: UserError that suggests the nearest name if there is none."""
        close = nearest(name, self.checkpoints)
        hint = f"did you mean {close}?" if close else f"{MANIFEST.name} lists them"
        require(name in self.checkpoints, f"--paper {name}: no published result has that name; {hint}")
        return self.checkpoints[name]

    def matching(self, path: Path, family: str, dataset: str | None) -> list[Published]:
        """Return the entries of a file: by its SHA-256, else by its name, family and dataset (None: any)."""
        known = [entry for entry in self.checkpoints.values() if entry.family == family]
        if any(entry.sha256 for entry in known):
            digest = _digest(path)
            if exact := [entry for entry in known if entry.sha256 == digest]:
                return exact
        return [entry for entry in known if entry.file == path.name and dataset in (None, entry.dataset)]


def _digest(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def load_manifest(path: Path = MANIFEST) -> Manifest:
    """Read and check the manifest. Raises: UserError naming the file, the entry and what is wrong with it."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from None
    whole = isinstance(content, dict) and set(content) == {"families", "checkpoints"}
    require(
        whole and isinstance(content["families"], dict) and isinstance(content["checkpoints"], list),
        f"{path}: must contain `families:`, by name, and `checkpoints:`, a list",
    )
    families = {str(name): _family(name, entry, path) for name, entry in content["families"].items()}
    lacking = sorted(FAMILIES.keys() - families.keys())
    require(not lacking, f"{path}: families: {', '.join(lacking)} missing; add how their images are prepared")
    checkpoints: dict[str, Published] = {}
    for number, entry in enumerate(content["checkpoints"], 1):
        published = _published(entry, f"{path}: checkpoints: entry {number}")
        require(published.name not in checkpoints, f"{path}: checkpoints: the name {published.name} is given twice")
        checkpoints[published.name] = published
    return Manifest(families, checkpoints)


_TYPES: dict[str, type | tuple[type, ...]] = {
    "img_size": int,
    "metrics": dict,
    "network": dict,
    "differs": dict,
    "order": list,
    "file": (str, type(None)),
    "sha256": (str, type(None)),
}
"""Types of the values that are not text."""


def _checked(entry: Any, record: type[FamilyDefaults | Published], where: str) -> dict[str, Any]:
    """Return the entry if its keys are fields of `record`, none missing, each of its type. Raises: UserError."""
    require(isinstance(entry, dict), f"{where}: must be `key: value` pairs")
    known = {each.name: each for each in fields(record)}
    needed = {name for name, each in known.items() if each.default is MISSING and each.default_factory is MISSING}
    for wrong, fault in ((set(entry) - known.keys(), "unknown"), (needed - entry.keys(), "missing")):
        require(not wrong, f"{where}: {fault}: {', '.join(sorted(map(str, wrong)))}")
    for key, value in entry.items():
        fits = isinstance(value, _TYPES.get(key, str)) and not isinstance(value, bool)
        require(fits, f"{where}: {key}: {str(value)[:60]!r} is of the wrong type")
    _check_view(entry, where)
    return dict(entry)


def _check_view(entry: Mapping[str, Any], where: str) -> None:
    """Raise UserError unless image size and normalisation exist."""
    size, scale = entry.get("img_size", 8), entry.get("normalize", "unit")
    require(type(size) is int and size >= 8, f"{where}: img_size {size}: must be a whole number, at least 8")
    require(scale in NORMALIZATIONS, f"{where}: normalize {scale}: choose from {', '.join(NORMALIZATIONS)}")
    resize = entry.get("resize", "antialias")
    require(resize in RESIZERS, f"{where}: resize {resize}: choose from {', '.join(RESIZERS)}")


def _check_datasets(names: Any, where: str) -> None:
    """Raise UserError unless all datasets exist."""
    unknown = [str(name) for name in names if name not in DATASETS]
    require(not unknown, f"{where}: no dataset is called {', '.join(unknown)}")


def _family(name: Any, entry: Any, path: Path) -> FamilyDefaults:
    """Check and return the defaults of one family."""
    where = f"{path}: families: {name}"
    require(name in FAMILIES, f"{where}: no such family; there are {', '.join(FAMILIES)}")
    values = _checked(entry, FamilyDefaults, where)
    values["order"] = tuple(values.get("order", ()))
    _check_datasets([*values["order"], *values.get("differs", {})], where)
    for dataset, change in values.get("differs", {}).items():
        fits = isinstance(change, dict) and set(change) <= set(Preparation._fields)
        require(fits, f"{where}: differs: {dataset}: only {', '.join(Preparation._fields)} may differ")
        _check_view(change, f"{where}: differs: {dataset}")
    return FamilyDefaults(**values)


def _published(entry: Any, where: str) -> Published:
    """Check and return one published result."""
    if isinstance(entry, dict) and isinstance(entry.get("name"), str):
        where = f"{where} ({entry['name'][:60]})"
    published = Published(**_checked(entry, Published, where))
    require(bool(_NAME.fullmatch(published.name)), f"{where}: a name is of small letters, digits and . + _ -")
    require(published.family in FAMILIES, f"{where}: family {published.family}: choose from {', '.join(FAMILIES)}")
    _check_datasets([published.dataset], where)
    require(
        published.sha256 is None or bool(_SHA256.fullmatch(published.sha256)),
        f"{where}: sha256: 64 hexadecimal digits are needed, in small letters",
    )
    for key, value in published.metrics.items():
        fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100
        require(fits, f"{where}: metrics: {key} {value!r}: must be a percentage")
    require(bool(published.metrics), f"{where}: metrics: at least one is needed")
    unknown = sorted(set(published.network) - set(HeadOverrides._fields))
    require(not unknown, f"{where}: network: unknown: {', '.join(map(str, unknown))}")
    return published
