"""The last section of `docs/own_data.md`: from three messy tables to a model with thresholds and a report."""

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from tests.commands.scene import ROOT, run_process
from tests.engine.report.pages import Page

SECTION = (ROOT / "docs" / "own_data.md").read_text().split("\n## From three messy tables")[1]
COMMANDS = re.findall(r"^ *python (\w+\.py .*)$", SECTION, re.MULTILINE)
SETTINGS = re.search(r"```yaml\n(.*?)```", SECTION, re.DOTALL).group(1)
SMALL = ("--model", "scenenet", "--weights", "none", "--img_size", "32")
ROWS = 120


def scene(folder):
    """Images whose colours are their classes, three tables about them as people write them, one label of each wrong."""
    rng = np.random.default_rng(0)
    codes = (rng.random((ROWS, 3)) < 0.4).astype(int)
    for name in ("images", "new"):
        (folder / name).mkdir()
    for row, present in enumerate(codes):
        pixels = rng.integers(0, 50, (36, 36, 3), dtype=np.uint8) + (190 * present).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{row:03}.jpg")
    Image.fromarray(pixels).save(folder / "new" / "a.jpg")
    given = codes.copy()
    given[7, 0], given[50, 1], given[9, 2] = 1 - codes[7, 0], 1 - codes[50, 1], 1 - codes[9, 2]
    write_tables(folder, given)
    (folder / "own.yaml").write_text(SETTINGS)
    (folder / "corrected.yaml").write_text(re.sub(r"(\w+)\.(csv|tsv)", r"\1.corrected.\2", SETTINGS))
    lines = [("007.jpg", "cat", 7, 0), ("data/050.JPG", "chair", 50, 1), ("009", "car", 9, 2)]
    words = [f"{image},{name},{('absent', 'present')[codes[row, column]]}" for image, name, row, column in lines]
    (folder / "decisions.csv").write_text("\n".join(["image,class,new", *words]) + "\n")
    return codes


def write_tables(folder, given):
    """Animals with some lines twice, things of later images, traffic with what has no line."""
    animals = [
        f"{row:03}.jpg; {('', 'cat | dog', 'cat|dog')[given[row, 0] * (1 + row % 2)]}" for row in range(ROWS // 2)
    ]
    (folder / "animals.csv").write_text("\n".join(["file; animals", *animals, animals[3], animals[8]]) + "\n")
    things = [
        f"C:\\data\\{row:03}.JPG,{('-1', '', given[row, 1])[min(row % 9, 2)]},{(row // 2) % 2}"
        for row in range(40, ROWS)
    ]
    (folder / "things.csv").write_text("\n".join(["image,chair,sofa", *things]) + "\n")
    traffic = [f"{row:03}\tcar\t{given[row, 2]}" for row in range(0, ROWS, 1) if row % 5]
    (folder / "traffic.tsv").write_text("\n".join(["ImageID\tLabelName\tConfidence", *traffic]) + "\n")


@pytest.mark.slow
def test_ten_commands_lead_from_messy_tables_to_a_model_with_thresholds_and_a_report(tmp_path):
    codes = scene(tmp_path)
    assert len(COMMANDS) == 10
    for line in COMMANDS:
        script, *words = shlex.split(line.replace("--weights lite0", " ".join(SMALL)))
        flags = (*SMALL, "--duplicates", "0.9999") if script == "audit.py" and "--apply" not in words else ()
        done = run_process(tmp_path, script, *words, *flags)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    for name, row, cell in (
        ("animals.corrected.csv", 7, "cat" if codes[7, 0] else ""),
        ("things.corrected.csv", 50, f"C:\\data\\050.JPG,{codes[50, 1]},"),
        ("traffic.corrected.tsv", 9, f"009\tcar\t{codes[9, 2]}"),
    ):
        assert any(f"{row:03}" in one and cell in one for one in (tmp_path / name).read_text().splitlines()), name
    assert (tmp_path / "audit" / "audit.html").exists()
    assert (tmp_path / "next" / "next.csv").exists()
    for name in ("partial", "large_loss", "both"):
        folder = tmp_path / "runs" / name
        Page((folder / "report.html").read_text())
    held = json.loads((tmp_path / "result.json").read_text())
    assert held["thresholds"]["rule"] == "f1"
    assert held["calibration"]["method"] == "temperature"
    assert {row["class"] for row in held["per_class"]} == {"cat", "dog", "chair", "sofa", "car"}
    assert (tmp_path / "labels.csv").read_text().startswith("path,rank,label,score")
