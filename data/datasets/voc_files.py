"""Files of a VOC folder by the ids of its lists, whatever the case of their suffix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from data.images.suffixes import SUFFIXES


def annotation_paths(folder: Path, ids: Sequence[str]) -> list[Path]:
    """Return `<id>.xml`, or the file that has this suffix in another case; `<id>.xml` where there is none."""
    return [Path(path) for path in _paths(folder, ids, (".xml",))]


def image_paths(folder: Path, ids: Sequence[str]) -> list[str]:
    """Return `<id>.jpg`, or else the file with another suffix of images; `<id>.jpg` where there is none."""
    return _paths(folder, ids, SUFFIXES)


def missing_ids(folder: Path, ids: Sequence[str]) -> list[str]:
    """Return the ids without an annotation, in order."""
    existing = _listed(folder)
    return [one for one, path in zip(ids, annotation_paths(folder, ids), strict=True) if path.name not in existing]


def _paths(folder: Path, ids: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Return the path of each id with one of the suffixes, the first that there is; the first suffix if none is."""
    existing, usual = _listed(folder), suffixes[0]
    if all(one + usual in existing for one in ids):
        return [f"{folder}/{one}{usual}" for one in ids]
    others: dict[str, list[str]] = {}
    for name in sorted(existing, reverse=True):  # lower case first
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 - names, perhaps many
        if suffix.lower() in suffixes:
            others.setdefault(stem, []).append(suffix)
    for found in others.values():
        found.sort(key=lambda suffix: suffixes.index(suffix.lower()))
    return [f"{folder}/{one}{others.get(one, [usual])[0]}" for one in ids]


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208 - names are enough
    except OSError:
        return set()
