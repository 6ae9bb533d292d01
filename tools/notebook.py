"""A page of the docs as a notebook: `python -m tools.notebook` writes `docs/first_hour.ipynb`, `--check` compares it.

Blocks marked `python` and `bash` become cells that run, `<!-- show: FILE -->` one that shows a picture; everything else
is text, `console` blocks included. Nothing that ran is kept in the file, so that it follows from the page alone.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "first_hour.md"
_CELL = re.compile(r"^```(python|bash)\n(.*?)^```$|^<!-- show: (\S+) -->$", re.DOTALL | re.MULTILINE)
BEGIN = """\
# Commands run in the folder of the checkout, with the Python of this notebook.
import os
import sys
from pathlib import Path

from IPython.display import Image as Shown

os.chdir(next(folder for folder in [Path.cwd(), *Path.cwd().parents] if (folder / "main_BCE.py").exists()))
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
"""


def cells_of(page: str) -> Iterator[tuple[str, str]]:
    """The cells of a page, `markdown` or `code`, and their texts; the first that runs is one that prepares."""
    at, begun = 0, False
    for found in _CELL.finditer(page):
        yield from _text(page[at : found.start()])
        if not begun:
            yield "code", BEGIN
        begun, at = True, found.end()
        kind, code, picture = found.groups()
        if picture:
            yield "code", f'Shown("{picture}")'
        else:
            yield "code", f"%%bash\n{code}" if kind == "bash" else code
    yield from _text(page[at:])


def _text(between: str) -> Iterator[tuple[str, str]]:
    """A cell of text, if there is any."""
    if between.strip():
        yield "markdown", between.strip()


def notebook_of(page: str) -> str:
    """The file of a notebook (format 4.5)."""
    cells = [_cell(number, kind, text.rstrip("\n")) for number, (kind, text) in enumerate(cells_of(page))]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    content = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    """A cell as the format has it; its id is its place."""
    cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def main(words: Sequence[str]) -> int:
    """Write the notebook, or with `--check` say whether it is that of the page."""
    file, text = PAGE.with_suffix(".ipynb"), notebook_of(PAGE.read_text(encoding="utf-8"))
    if "--check" not in words:
        file.write_text(text, encoding="utf-8")
    elif not file.exists() or file.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"{file.relative_to(ROOT)} is not that of its page: python -m tools.notebook writes it\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
