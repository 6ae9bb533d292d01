"""The build backend of `pip install .` (PEP 517): a wheel of this tree, all of it below `partial_truth`.

The packages at the top have names that a project of one's own may have too (`utils`, `data`), so every import of one in
the wheel begins with `partial_truth`. Standard library only: building needs no other package and leaves nothing behind.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NAME = "partial_truth"
ROOMS = ("utils", "data", "models", "losses", "engine")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_SAME = (1980, 1, 1, 0, 0, 0)  # the same tree makes the same bytes, whenever


def rewritten(source: str) -> str:
    """The code of a module with its imports of our packages below `partial_truth`. Raises: ValueError naming a line."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(each.name.partition(".")[0] in ROOMS for each in node.names):
            raise ValueError(f"line {node.lineno}: write `from ... import ...`, which can be moved below {NAME}")
        if isinstance(node, ast.ImportFrom) and not node.level and str(node.module).partition(".")[0] in ROOMS:
            line, start = lines[node.lineno - 1], node.col_offset
            lines[node.lineno - 1] = f"{line[:start]}from {NAME}.{line[start:].removeprefix('from ')}"
    return "".join(lines)


def requirements(path: Path) -> list[str]:
    """What a file of requirements asks for itself, without what it takes from another."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("-r")]


def metadata() -> str:
    """The file METADATA; every `requirements-NAME.txt` that builds on `requirements.txt` is the extra NAME."""
    lines = ["Metadata-Version: 2.4", f"Name: {PROJECT['name']}", f"Version: {PROJECT['version']}"]
    lines += [f"Summary: {PROJECT['description']}", f"Requires-Python: {PROJECT['requires-python']}"]
    lines += [f"License-Expression: {PROJECT['license']}", "License-File: LICENSE"]
    lines += [f"Requires-Dist: {each}" for each in requirements(ROOT / "requirements.txt")]
    for path in sorted(ROOT.glob("requirements-*.txt")):
        if "-r requirements.txt" in path.read_text(encoding="utf-8").splitlines():
            extra = path.stem.partition("-")[2]
            lines.append(f"Provides-Extra: {extra}")
            lines += [f'Requires-Dist: {each}; extra == "{extra}"' for each in requirements(path)]
    return "\n".join(lines) + "\n"


def tree() -> Iterator[Path]:
    """The scripts, and all files of the packages and of `configs`, but for what Python and editors leave there."""
    yield from sorted(ROOT.glob("*.py"))
    for path in sorted(path for folder in (*ROOMS, "configs") for path in (ROOT / folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
            yield path


def wheel_files() -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of the wheel, but for the list of them."""
    yield f"{NAME}/__init__.py", f'"""{PROJECT["description"]}."""\n\n__version__ = "{PROJECT["version"]}"\n'.encode()
    yield f"{NAME}/__main__.py", rewritten((ROOT / "tools" / "installed.py").read_text(encoding="utf-8")).encode()
    for path in tree():
        content = path.read_bytes()
        moved = rewritten(content.decode()).encode() if path.suffix == ".py" else content
        yield f"{NAME}/{path.relative_to(ROOT).as_posix()}", moved
    info = f"{NAME}-{PROJECT['version']}.dist-info"
    yield f"{info}/METADATA", metadata().encode()
    yield (
        f"{info}/WHEEL",
        b"Wheel-Version: 1.0\nGenerator: tools.installable\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    )
    yield f"{info}/entry_points.txt", f"[console_scripts]\npartial-truth = {NAME}.__main__:main\n".encode()
    yield f"{info}/licenses/LICENSE", (ROOT / "LICENSE").read_bytes()


def record(files: Iterable[tuple[str, bytes]], own: str) -> str:
    """The list of all files of the wheel with their hashes, itself without one."""
    hashes = (
        (name, base64.urlsafe_b64encode(hashlib.sha256(content).digest()), len(content)) for name, content in files
    )
    return "".join(f"{name},sha256={code.decode().rstrip('=')},{size}\n" for name, code, size in hashes) + f"{own},,\n"


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Write the wheel into a folder; its name. The function that pip calls."""
    files, name = list(wheel_files()), f"{NAME}-{PROJECT['version']}-py3-none-any.whl"
    listed = f"{NAME}-{PROJECT['version']}.dist-info/RECORD"
    with zipfile.ZipFile(Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, content in (*files, (listed, record(files, listed).encode())):
            archive.writestr(zipfile.ZipInfo(each, _SAME), content, zipfile.ZIP_DEFLATED)
    return name
