"""Reports say what they did when somebody last read them: `tests/fixtures/reports.json.xz`.

`python -m tests.engine.inspection.test_kept_reports` writes it anew and prints the texts.
"""

import dataclasses
import json
import lzma
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.images.files import FileImages
from data.labels.regime import Regime, observe
from engine.inspection.command import inspect_dataset
from engine.inspection.report import DataRead, report
from engine.inspection.text import as_text
from tests.engine.inspection.test_command import data, part
from utils.types import Boxes

KEPT = Path(__file__).parents[2] / "fixtures" / "reports.json.xz"


def picture(row, mode="RGB", size=(9, 7)):
    """An image file of one row, each another picture; missing, broken, empty and equal ones among them."""
    path = Path("images") / f"{row}.png"
    path.parent.mkdir(exist_ok=True)
    if row not in (3, 4, 31):
        seed = {11: 10, 41: 10, 8: 1}.get(row, row)
        noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(noise).convert(mode).save(path)
    if row in (5, 32):
        path.write_bytes(path.read_bytes()[:-40])
    if row == 6:
        path.write_bytes(b"")
    return path


def spoilt():
    """Thirty and fifteen images in the folder images, with every fault, boxes and odd class names."""
    rng, parts = np.random.default_rng(5), {}
    for name, rows in (("train", range(30)), ("test", range(30, 45))):
        paths = [picture(row, *(("L", (20 + row, 8)) if row % 9 == 7 else ())) for row in rows]
        codes = rng.choice([-1, 0, 1], (len(paths), 14), p=[0.15, 0.6, 0.25]).astype(np.int8)
        codes[:, 13], codes[2], codes[8] = 0, -1, 0
        codes[9] = 1
        held = part(codes, name, images=FileImages(paths))
        corners = np.array([(0, 0, 5, 5), (1, 1, 1, 4), (40, 40, 50, 50), (2.5, 1, 3, 3)], dtype=np.float32)
        boxes = Boxes(np.array([0, 1, 1, 2]), np.array([0, 1, 2, 3]), corners)
        names = ("a  class of a name that is far too long to be shown", *held.classes[1:])
        parts[name] = dataclasses.replace(held, boxes=boxes, classes=names)
    regime = Regime(labels="candidate", partial_rate=0.2, label_seed=3)
    observed = observe(parts["train"], regime)
    return DataRead("spoilt", parts, observed, regime, Path("labels.npy"), {"rare": np.array([13, 2])})


def with_validation():
    read = data(columns=5)
    train = read.parts["train"]
    parts = {
        "train": train.take(np.arange(35)),
        "validation": train.take(np.arange(35, 50)),
        "test": read.parts["test"],
    }
    regime = Regime(labels="dropped", label_seed=1)
    return read._replace(parts=parts, observed=observe(parts["train"], regime), regime=regime)


READ = {
    "invented": lambda: (data(), True, False, 3),
    "unchecked": lambda: (data(columns=3), False, False, 10),
    "validation": lambda: (with_validation(), True, False, 2),
    "spoilt": lambda: (spoilt(), True, False, 2),
    "spoilt, skipping": lambda: (spoilt(), True, True, 10),
    "spoilt, unchecked": lambda: (spoilt(), False, True, 4),
    "one row": lambda: (data(parts={"train": part(np.array([[1, 0]], np.int8), "train")}), True, False, 1),
}


def written(name):
    """A report as JSON holds it, and its text, of files in the working folder."""
    read, checked, skipping, top = READ[name]()
    if name == "one row":
        read = read._replace(observed=read.parts["train"].truth)
    found = report(inspect_dataset(read, checked), skip_missing=skipping)
    return json.loads(json.dumps({"report": found, "text": as_text(found, top).splitlines()}, allow_nan=False))


@pytest.mark.parametrize("name", READ)
def test_a_report_says_what_it_did(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept, found = json.loads(lzma.decompress(KEPT.read_bytes()))[name], written(name)
    assert found["text"] == kept["text"]
    assert found["report"] == kept["report"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        every = {name: written(name) for name in READ}
    KEPT.write_bytes(lzma.compress(json.dumps(every).encode()))
    sys.stdout.write("\n\n\n".join("\n".join(each["text"]) for each in every.values()) + "\n")
