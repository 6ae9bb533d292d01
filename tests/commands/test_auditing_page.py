"""The commands of `docs/auditing.md`, one after another, on a table of coloured images."""

import re
import shlex

import numpy as np
import pytest
from PIL import Image

from tests.commands.scene import ROOT, run_process
from tests.engine.audit.small_table import read_rows

PAGE = (ROOT / "docs" / "auditing.md").read_text()
COMMANDS = re.findall(r"^ *python (audit\.py .*)$", PAGE, re.MULTILINE)
SMALL = ("--model", "scenenet", "--weights", "none", "--img_size", "32", "--threads", "1", "--duplicates", "0.9999")
COLOURS = {"boat": 0, "person": 1}


def scene(folder):
    """A table with a column per class, images whose colours are their classes, features and scores of them."""
    rng = np.random.default_rng(0)
    codes = (rng.random((60, 2)) < 0.5).astype(int)
    codes[3] = (0, 1)
    (folder / "images").mkdir()
    ids = [f"{row:03}.jpg" for row in range(60)]
    for name, row in zip(ids, codes, strict=True):
        pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        pixels[..., :2] += (150 * row).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    cells = [
        ",".join([name, *("" if at > 50 else str(code) for code in row)])
        for at, (name, row) in enumerate(zip(ids, codes, strict=True))
    ]
    (folder / "labels.csv").write_text("\n".join(["image,boat,person", *cells]) + "\n")
    features = np.hstack([codes, codes, 0.2 * rng.standard_normal((60, 4))]).astype(np.float32)
    np.savez(folder / "features.npz", features=features, ids=ids)
    scores = (0.2 + 0.6 * codes + 0.1 * rng.random(codes.shape)).astype(np.float32)
    np.savez(folder / "scores.npz", scores=scores, ids=ids, classes=list(COLOURS), kind="probability")
    decisions = re.search(r"```csv\n(.*?)```", PAGE, re.DOTALL).group(1)
    (folder / "decisions.csv").write_text(
        "".join(line.strip() + "\n" for line in decisions.splitlines() if line.strip())
    )


@pytest.mark.slow
def test_the_commands_of_the_page_do_what_it_says(tmp_path):
    scene(tmp_path)
    before = (tmp_path / "labels.csv").read_text()
    assert len(COMMANDS) == 5
    for line in COMMANDS:
        script, *words = shlex.split(line)
        flags = () if "--apply" in words else SMALL
        done = run_process(tmp_path, script, *words, *flags)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    written = {path.name for path in (tmp_path / "runs" / "audit-table").iterdir()}
    files = re.findall(r"^\| `(\w+\.\w+)` \|", PAGE, re.MULTILINE)
    assert written == {*files, "next.csv"}
    assert (tmp_path / "labels.csv").read_text() == before
    assert (tmp_path / "labels.corrected.csv").read_text() == before.replace("003.jpg,0,", "003.jpg,1,")
    (row,) = read_rows(tmp_path / "labels.corrected.log.csv")
    assert (row["image"], row["class"], row["after"]) == ("003.jpg", "boat", "present")
    assert len(read_rows(tmp_path / "runs" / "audit-table" / "next.csv")) == 9
