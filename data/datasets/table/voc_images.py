"""The images of a folder of VOC annotations: the file of each annotation, and notes about all that are not used."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.datasets.voc import read_filename
from data.files.accents import MatchedNames, alike_notes, by_composed, composed, match_name, otherwise_note
from data.images.suffixes import SUFFIXES, is_image_name

_NAMED = 3  # files in a note


def voc_images(folder: Path, names: Sequence[str], annotated: Mapping[str, Path]) -> MatchedNames:
    """Paths of the images of annotations: `<name>` with any suffix of images, `<name>.jpg` where there is none.

    Of several images of one name, that is meant which `<filename>` of the annotation names, or else the one whose
    suffix is first in `SUFFIXES`. The notes count images that are left out for this or that have no annotation, and
    names whose accents are encoded otherwise.

    Args:
        folder: has the images.
        names: of the annotations in use, without `.xml`.
        annotated: path of every annotation by name, those in use and others.

    Raises:
        UserError: two images are meant equally.
    """
    files = _by_stem(folder)
    stems, otherwise, wanted = set(files), by_composed(files), set(names)
    found = {name: match_name(name, stems, otherwise, str(folder)) for name in names}
    meant = {name: stem for name, stem in found.items() if stem and (stem == name or stem not in wanted)}
    chosen = {name: _choose(files[stem], annotated.get(name)) for name, stem in meant.items()}
    renamed = [name for name, stem in meant.items() if name != stem]
    several = {name: files[stem] for name, stem in meant.items() if len(files[stem]) > 1}
    known = {composed(name) for name in annotated}
    bare = [file for stem, group in files.items() for file in group if composed(stem) not in known]
    notes = [
        *([f"{folder}: {otherwise_note(renamed, 'images')}"] if renamed else []),
        *alike_notes(folder, names, "images"),
        *_several_notes(folder, several, chosen),
        *([f"{folder}: left out {len(bare)} images without an annotation ({_some(bare)})"] if bare else []),
        *_below_notes(folder, annotated),
    ]
    return MatchedNames([f"{folder}/{chosen.get(name, f'{name}.jpg')}" for name in names], notes)


def _by_stem(folder: Path) -> dict[str, list[str]]:
    """The image files of a folder by name without suffix, those first that are meant first."""
    files: dict[str, list[str]] = {}
    for file in sorted(_listed(folder), key=_rank):
        if is_image_name(file):
            files.setdefault(os.path.splitext(file)[0], []).append(file)  # noqa: PTH122 - names, perhaps many
    return files


def _rank(file: str) -> tuple[int, bool, str]:
    suffix = os.path.splitext(file)[1]  # noqa: PTH122
    place = SUFFIXES.index(suffix.lower()) if suffix.lower() in SUFFIXES else len(SUFFIXES)
    return place, suffix != suffix.lower(), file


def _choose(files: Sequence[str], annotation: Path | None) -> str:
    """The file that the annotation names, else the first."""
    if len(files) == 1 or annotation is None:
        return files[0]
    named = composed(read_filename(annotation).replace("\\", "/").rsplit("/", 1)[-1])
    return next((file for file in files if composed(file) == named), files[0])


def _several_notes(folder: Path, several: Mapping[str, Sequence[str]], chosen: Mapping[str, str]) -> list[str]:
    """A line about images of the same name, of which one is used."""
    if not several:
        return []
    left_out = sum(len(files) - 1 for files in several.values())
    first = next(iter(several))
    others = ", ".join(file for file in several[first] if file != chosen[first])
    return [
        f"{folder}: left out {left_out} images, as another of the same name is used, which <filename> names or whose "
        f"suffix comes first ({chosen[first]}, not {others}{', ...' if len(several) > 1 else ''})"
    ]


def _below_notes(folder: Path, annotated: Mapping[str, Path]) -> list[str]:
    """A line about images in subfolders; none where annotations and other files lie beside the images."""
    if any(path.parent == folder for path in annotated.values()):
        return []
    below = [f"{name}/{file}" for name in _folders(folder) for file in _listed(folder / name) if is_image_name(file)]
    return [f"{folder}: left out {len(below)} images in subfolders ({_some(sorted(below))})"] if below else []


def _folders(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except OSError:
        return []


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are enough, and there may be millions
    except OSError:
        return []


def _some(files: Sequence[str]) -> str:
    return ", ".join(files[:_NAMED]) + (", ..." if len(files) > _NAMED else "")
