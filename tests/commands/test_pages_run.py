"""The commands of the pages on thresholds, reports and predicting, run as they are printed."""

import importlib.util
import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.commands.scene import ROOT, succeed
from tests.engine.report.pages import Page

SMALL = "--model scenenet --weights none --img_size 32 --epochs 1 --threads 1"


def commands(page):
    """The commands of a page, each as its words."""
    text = (ROOT / "docs" / page).read_text()
    lines = re.findall(r"^    python (\w+\.py .*)$", text, re.MULTILINE)
    return [shlex.split(line.replace("--weights lite0", SMALL)) for line in lines]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which the commands of the page on thresholds have been run; and what they printed."""
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    codes = (rng.random((100, 2)) < 0.5).astype(int)
    (folder / "photos").mkdir()
    for row, present in enumerate(codes):
        pixels = rng.integers(0, 50, (36, 36, 2), dtype=np.uint8) + (190 * present).astype(np.uint8)
        Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(folder / f"{row:03}.jpg")
    for name in ("holiday.jpg", "photos/a.jpg", "photos/b.jpg"):
        shutil.copy(folder / "000.jpg", folder / name)
    (folder / "paths.txt").write_text("photos/a.jpg\nphotos/b.jpg\n")
    table = [f"{row:03}.jpg,{cat if row % 5 else ''},{dog}" for row, (cat, dog) in enumerate(codes)]
    (folder / "labels.csv").write_text("\n".join(["image,cat,dog", *table]) + "\n")
    return folder, [succeed(folder, *words) for words in commands("thresholds.md")]


@pytest.mark.slow
def test_the_page_on_thresholds(trained):
    folder, (_, chosen, scored, predicted) = trained
    assert "  thresholds by f1, chosen on the validation split of table, 16 images\n" in chosen
    assert "  calibration by isotonic, fitted on the validation split of table" in scored
    assert predicted.splitlines()[0] == "labels by the thresholds in runs/mine/best.pth (f1)"
    assert {path.name for path in (folder / "figures").iterdir()} == {"per_class.png", "reliability.png"}


@pytest.mark.slow
def test_the_page_on_reports(trained):
    folder, _ = trained
    for name in "ab":
        shutil.copytree(folder / "runs" / "mine", folder / "runs" / name)
    (words,) = commands("reports.md")
    succeed(folder, *words)
    Page((folder / "runs" / "both" / "report.html").read_text())
    Page((folder / "runs" / "a" / "report.html").read_text())


@pytest.mark.slow
def test_the_page_on_predicting(trained):
    folder, _ = trained
    shutil.copytree(folder / "runs" / "mine", folder / "runs" / "my")
    shutil.copy(folder / "runs" / "mine" / "best.pth", folder / "best.pth")
    for words in commands("predicting.md"):
        needed = [name for name in ("onnx", "parquet") if name in words]
        if all(importlib.util.find_spec({"onnx": "onnxscript", "parquet": "pyarrow"}[name]) for name in needed):
            if "--image_list" in words:
                shutil.rmtree(folder / "labels")  # of the command before, which wrote another list
            elif "--resume" in words:
                shutil.rmtree(folder / "labels", ignore_errors=True)
                succeed(folder, *[word for word in words if word != "--resume"])
            succeed(folder, *words)
    assert (folder / "labels.html").exists()
    assert list((folder / "labels").glob("*.csv"))
