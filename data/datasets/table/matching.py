"""Images of a table and files on disk: names without ending, paths with another beginning, uploads with a prefix.

The id of an image is what the table says, whatever lies on disk. Which file it is follows in this order: the very path;
the path with accents encoded otherwise; with an ending added or in other capitals; the end of a longer path on either
side; the name alone, where it is unique on both sides. Two files for one name are a refusal.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import dropwhile
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from data.datasets.table.config import split_list
from data.files.accents import MatchedNames, composed, match_files
from data.images.files import FileImages
from data.images.suffixes import SUFFIXES, is_heic_name, is_image_name
from utils.checks import UserError, require

_PLAIN = re.compile(r"(?:[\w(][\w .()+,@=~-]*/)*[\w(][\w .()+,@=~-]*")
"""A relative path in its only form, of which nothing has to be checked."""
_ALL_PLAIN = re.compile(rf"(?:{_PLAIN.pattern}\n)*+")
_PREFIX = re.compile(r"^[0-9a-f]{6,10}-(?=.)")
"""What annotation tools put before the name of an upload."""
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+://[^/]*/", re.IGNORECASE)
_SERVED = "?d="
"""Behind this, annotation tools name a file that they serve from a folder of their own."""
_HOW = {
    "ending": "with an ending added or in other capitals",
    "path": "in other folders than the table says",
    "name": "by the name alone",
    "upload": "without the prefix of an upload",
    "url": "as the path in an address",
    "number": "by the number, whatever zeros stand before it",
}


def all_plain(texts: Sequence[str]) -> bool:
    """True for relative paths in their only form, each of one printable line: they are the ids, and need no check."""
    joined = "\n".join([*texts, ""])
    return _ALL_PLAIN.fullmatch(joined) is not None and joined.count("\n") == len(texts) and _printable(joined)


def _printable(lines: str) -> bool:
    return lines.replace("\n", "").isprintable()


def image_id(text: str, where: str, folder: Path) -> str:
    """The id of an image: its path in the table with slashes, or of an absolute path what is below the image folder.

    Args:
        text: the cell.
        where: file and line, for the message.
        folder: the image folder; of a path of another machine, or one that leads up first, what stands behind a folder
            of the same name is left.

    Raises:
        UserError: it is empty, or leads out of the folder.
    """
    if _PLAIN.fullmatch(text):
        return text
    name = text.rpartition(_SERVED)[2] if _SERVED in text else text
    absolute = _SCHEME.match(name) is not None
    name = _SCHEME.sub("", name).replace("\\", "/")
    windows = PureWindowsPath(name)
    if windows.drive:
        absolute, name = True, name[len(windows.drive) :]
    parts = PurePosixPath(name).parts
    if parts and parts[0].startswith("/"):
        absolute, parts = True, parts[1:]
    below = _below(parts, folder) if absolute else _come_back(parts, folder)
    if not parts or ".." in below or "\0" in name or (absolute and ".." in parts):
        raise UserError(f"{where}: {text[:80]!r} is no file name inside the image folder")
    return "/".join(below)


def _come_back(parts: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """The parts of a relative path; of one that leads up first, those below a folder called like the image folder."""
    inner = tuple(dropwhile(lambda part: part == "..", parts))
    below = _below(inner, folder)
    return parts if inner == parts or below == inner else below


def _below(parts: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """The parts of a path from elsewhere below the image folder, or a folder of its name; all if there is none."""
    own = Path(os.path.realpath(folder)).parts[1:]
    if parts[: len(own)] == own and len(parts) > len(own):
        return parts[len(own) :]
    last = max((at for at, part in enumerate(parts[:-1]) if part == own[-1]), default=-1)
    return parts[last + 1 :]


class ImageFolder:
    """The image files below a folder, listed once and only when a path is not simply there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def files(self) -> list[str]:
        """Paths below the folder, with slashes, sorted; links to folders are not followed."""
        return self._found[0]

    @property
    def heic_files(self) -> list[str]:
        """The same of HEIC pictures, which are none of `files`."""
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[list[str], list[str]]:
        found, heic = [], []
        for parent, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = os.path.relpath(parent, self.folder).replace(os.sep, "/")
            start = "" if below == "." else f"{below}/"
            found += [start + name for name in names if is_image_name(name)]
            heic += [start + name for name in names if is_heic_name(name)]
        return sorted(found), sorted(heic)

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """The files by what is left of their name without folders, ending and capitals of the ending."""
        found: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            found[_key(file)].append(file)
        return found

    @cached_property
    def by_number(self) -> dict[str, list[str]]:
        """The files whose name is a whole number, by that."""
        found: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            found[_number(file)].append(file)
        return found

    def holds(self, names: Iterable[str]) -> int:
        """How many of some names are those of a file here, but for folders and endings."""
        return sum(bool(self.candidates(name)) for name in names)

    def candidates(self, name: str) -> list[str]:
        """The files whose name, without folders and ending, is that of a path."""
        same = self.by_name.get(_key(name), [])
        return [file for file in same if _endings_fit(name, file)]


def image_patterns(setting: str | None) -> tuple[str, ...]:
    """The patterns of `--image_pattern`, one for the whole image or one for each channel; `{}` without that setting.

    Raises: UserError for another number of them, one without `{}`, or one that leads out of the image folder.
    """
    patterns = ("{}",) if setting is None else split_list(setting)
    require(
        len(patterns) in (1, 3) and all("{}" in one for one in patterns),
        f"--image_pattern {setting}: must be one path, or three for red, green and blue, each with {{}} for the id",
    )
    require(
        all(".." not in one.replace("\\", "/").split("/") for one in patterns),
        f"--image_pattern {setting}: leads out of the image folder; write a path below --path_images",
    )
    return patterns


def match_images(folder: Path, ids: Sequence[str]) -> MatchedNames:
    """The file of each image as a path below the folder; the id itself where there is none.

    Raises: UserError where two files are meant equally, or two images mean one file.
    """
    exact = match_files(folder, ids)
    absent = FileImages([f"{folder}/{name}" for name in exact.names]).missing().tolist()
    if not absent or not folder.is_dir():
        return exact
    disk = ImageFolder(folder)
    names, how = list(exact.names), Counter[str]()
    taken = set(names) - {names[row] for row in absent}
    meant: dict[str, str] = {}
    alone = Counter(_key(ids[row]) for row in absent)
    example: dict[str, tuple[str, str]] = {}
    for row in absent:
        found, way = _file_of(ids[row], disk, only=alone[_key(ids[row])] == 1)
        if found is None or found in taken:
            continue
        other = meant.setdefault(found, ids[row])
        if other != ids[row]:
            raise UserError(
                f"{folder / found}: is meant by {other!r} and by {ids[row]!r}; write its path in one of them"
            )
        names[row] = found
        how[way] += 1
        example.setdefault(way, (ids[row], found))
    notes = [
        f"{folder}: {number} of {len(ids)} images found {_HOW[way]} ({example[way][0]}: {example[way][1]})"
        for way, number in how.items()
    ]
    return MatchedNames(names, [*exact.notes, *notes])


def files_there(folder: Path, ids: Sequence[str]) -> dict[str, str]:
    """The file of each image that has one, as a path below the folder. Raises: UserError as `match_images` does."""
    names = match_images(folder, ids).names if folder.is_dir() else []
    gone = set(FileImages([f"{folder}/{name}" for name in names]).missing().tolist())
    return {one: name for row, (one, name) in enumerate(zip(ids, names, strict=False)) if row not in gone}


def _file_of(name: str, disk: ImageFolder, *, only: bool) -> tuple[str | None, str]:
    """The file of a path that is not simply there, and how it was found.

    Args:
        name: the path.
        disk: the files.
        only: whether no other path has this name; else the name alone decides nothing.
    """
    for way, text in (("", name), ("upload", _without_prefix(name)), ("url", _without_query(name))):
        candidates = disk.candidates(text) if text else []
        same = [file for file in candidates if stem(file) == stem(text)]
        if same:
            return _one(name, same, disk), way or "ending"
        shared = {file: _shared_end(stem(text), stem(file)) for file in candidates}
        longest = max(shared.values(), default=0)
        if longest:
            return _one(name, [file for file in candidates if shared[file] == longest], disk), way or "path"
        if candidates and only:
            return _one(name, candidates, disk), way or "name"
    alike = disk.by_number.get(_number(name), []) if only and _number(name) else []
    numbered = [file for file in alike if _endings_fit(name, file)]
    return (_one(name, numbered, disk), "number") if numbered else (None, "")


def _one(name: str, files: Sequence[str], disk: ImageFolder) -> str:
    """The one file; of several the one whose ending has the very capitals. Raises: UserError for two."""
    exact = [file for file in files if file.endswith(name)]
    files = exact if len(exact) == 1 else files
    if len(files) > 1:
        raise UserError(
            f"{disk.folder}: {name!r} may be {files[0]!r} or {files[1]!r}; write the path with its ending, or give "
            "--path_images the folder of the images"
        )
    return files[0]


def _shared_end(one: str, other: str) -> int:
    """How many parts two paths share where one is the end of the other, at the border of a folder; else 0."""
    fits = f"/{one}".endswith(f"/{other}") or f"/{other}".endswith(f"/{one}")
    return 1 + min(one.count("/"), other.count("/")) if fits else 0


def _without_prefix(name: str) -> str:
    """The path without the prefix of an upload in its last part; empty if it has none."""
    head, slash, last = name.rpartition("/")
    return f"{head}{slash}{_PREFIX.sub('', last)}" if _PREFIX.match(last) else ""


def _without_query(name: str) -> str:
    """The path of a web address without what follows a `?`, and with `%20` as a blank; empty if that is the same."""
    plain = unquote(name.partition("?")[0])
    return "" if plain == name or ".." in plain.split("/") else plain


def _number(name: str) -> str:
    """The digits of a name that is a whole number, without zeros before them or `.0` behind; empty if it is none."""
    digits = _key(name).removesuffix(".0")
    return (digits.lstrip("0") or "0") if digits.isascii() and digits.isdigit() else ""


def same_but_for_ending(one: str, other: str) -> bool:
    """True for two paths of which one lacks an ending of images, or that differ only in its capitals, or in accents."""
    endings = {_ending(one).lower(), _ending(other).lower()}
    return stem(one) == stem(other) and (len(endings) == 1 or "" in endings)


def _endings_fit(name: str, file: str) -> bool:
    """True if a path has no ending of images, or that of the file but for capitals."""
    own = _ending(name).lower()
    return not own or own == _ending(file).lower()


def _ending(name: str) -> str:
    """The ending, if it is one of images."""
    ending = os.path.splitext(name)[1]  # noqa: PTH122 - a name
    return ending if ending.lower() in SUFFIXES else ""


def stem(name: str) -> str:
    """A path without an ending of images, accents composed."""
    ending = _ending(name)
    return composed(name[: -len(ending)] if ending else name)


def _key(name: str) -> str:
    return stem(name).rpartition("/")[2]
