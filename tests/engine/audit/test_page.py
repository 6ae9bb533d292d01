"""The page of an audit: everything is on it, nothing that a name says does anything, and ticks become a file."""

import csv
import io
import json
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from data.images.files import ArrayImages
from engine.audit.findings import find, listed
from engine.audit.page import audit_page
from engine.audit.scores import Plan, score_features
from engine.audit.source import AuditedImages
from tests.engine.prediction.test_html import in_browser
from utils.checks import RunError
from utils.types import Annotations, LabelTable

HOSTILE = "\"><script>alert(1)</script>{{ 7 * 7 }}',\n;=\u200c\udcff"
VOID = {"meta", "img", "input"}


class Read(HTMLParser):
    """Elements with their attributes, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert len(found) == len(attributes)
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(text)


def scene(name="cat"):
    """Findings of 40 images of two classes, of which two are the same and contradict each other."""
    rng = np.random.default_rng(0)
    codes = (rng.random((40, 2)) < 0.5).astype(np.int8)
    features = codes @ rng.standard_normal((2, 6)) + 0.05 * rng.standard_normal((40, 6))
    features[7] = features[8]
    codes[7], codes[8] = (1, 0), (0, 0)
    codes[3, 1] = -1
    pixels = rng.integers(0, 256, (40, 30, 60, 3), dtype=np.uint8)
    ids = tuple(f"{row}.jpg" if row else f"{name}.jpg" for row in range(40))
    part = Annotations(ArrayImages(pixels, ids), ids, (name, "dog"), LabelTable(codes))
    images = AuditedImages({"train": part}, {"train": part.truth})
    return find(images, score_features(features, images.codes, None, Plan(3, 5, 0.999999, 0)), 5)


def page(findings, command="python audit.py --apply decisions.csv", most=5):
    shown = [one for kind in ("missing", "wrong", "unknown") for one in listed(findings, kind, most)]
    return audit_page(findings, shown, command), shown


def test_every_label_has_a_box_and_every_image_is_there_once():
    findings = scene()
    text, shown = page(findings)
    read = Read(text)
    keys = [json.loads(one["data-key"]) for _, one in read.elements if "data-key" in one]
    images, classes = findings.images, findings.images.classes
    words = {1: "present", 0: "absent", -1: "unknown"}
    expected = [
        [images.ids[one.row], classes[one.label], words[int(images.codes[one.row, one.label])], words[one.suggested]]
        for one in shown
    ]
    pairs = [["7.jpg", "cat", "present", "absent"], ["8.jpg", "cat", "absent", "present"]]
    assert sorted(keys) == sorted([*pairs, *expected])
    thumbnails = [one for tag, one in read.elements if tag == "img"]
    assert len(thumbnails) == 2 + len({one.row for one in shown})
    assert {(one["width"], one["height"]) for one in thumbnails} == {("60", "30")}
    assert all(one["src"].startswith("data:image/jpeg;base64,") for one in thumbnails)
    assert "python audit.py --apply decisions.csv" in "".join(read.words)


def test_hostile_names_are_text_and_the_box_has_them_as_they_are():
    text, _ = page(scene(HOSTILE), command=HOSTILE, most=40)
    text.encode("utf-8", "backslashreplace")
    plain, read = Read(page(scene(), most=40)[0]), Read(text)
    assert [(tag, sorted(found)) for tag, found in read.elements] == [(tag, sorted(one)) for tag, one in plain.elements]
    keys = [json.loads(one["data-key"]) for _, one in read.elements if "data-key" in one]
    assert HOSTILE in {key[1] for key in keys}
    assert all(one["data-key"].isascii() for _, one in read.elements if "data-key" in one)


def test_the_page_asks_nobody_for_anything():
    read = Read(page(scene())[0])
    for tag, found in read.elements:
        assert tag not in ("link", "iframe", "object", "base")
        assert not {"href", "action", "srcset"} & found.keys()
        assert found.get("src", "data:").startswith("data:")
        assert not any(name.startswith("on") for name in found)
    policy = next(found["content"] for _, found in read.elements if "http-equiv" in found)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Gone(ArrayImages):
    """Images that cannot be read."""

    def open(self, row):
        raise RunError(f"{row} is gone")


def test_an_image_that_does_not_open_has_its_labels_all_the_same():
    findings = scene()
    part = findings.images.parts["train"]
    gone = Gone(np.zeros((40, 1, 1, 3), dtype=np.uint8), part.ids)
    images = AuditedImages({"train": Annotations(gone, part.ids, part.classes, part.truth)}, {"train": part.truth})
    text, _ = page(findings._replace(images=images))
    assert "no image" in text
    assert 'data-key="' in text


STAND_IN = """
const stands = KEYS.map((key) => ({ dataset: { key }, checked: false, on: false,
  addEventListener(_, act) { this.act = act; },
  closest() { return { classList: { toggle: (_, on) => { this.on = on; } } }; } }));
const parts = {}, saved = [];
const part = (name) => parts[name] ??= {
  value: "", children: [], reset() {}, addEventListener(kind, act) { this[kind] = act; } };
globalThis.document = { getElementById: part, querySelectorAll: () => stands, body: { append() {} },
  createElement: () => ({ click() { saved.push(this.download); }, remove() {} }) };
globalThis.window = { addEventListener() {} };
globalThis.Blob = class { constructor(texts) { saved.push(texts.join("")); } };
URL.createObjectURL = () => "blob:x"; URL.revokeObjectURL = () => {};
globalThis.setTimeout = () => {};
{ SCRIPT }
for (const at of TICKS) { stands[at].checked = !stands[at].checked; stands[at].act(); }
part("write").click();
const checked = stands.map((box) => box.checked && box.on);
console.log(JSON.stringify({ saved, checked, status: part("status").textContent }));
"""
"""A page of boxes alone, for a JavaScript engine without a browser."""


@pytest.mark.slow
def test_ticks_become_a_file_of_decisions():
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    script = page(scene())[0].split("<script>")[1].split("</script>")[0]
    hostile = 'a "b", c\u00e9\n.jpg'
    first = ["x.jpg", "cat", "absent", "present"]
    keys = [first, [hostile, "dog", "present", "absent"], first]
    text = STAND_IN.replace("KEYS", json.dumps([json.dumps(key) for key in keys]))
    text = text.replace("TICKS", "[0, 1]").replace("SCRIPT", script)
    done = subprocess.run([node, "-e", text], capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    content, name = found["saved"]
    assert name == "decisions.csv"
    assert list(csv.reader(io.StringIO(content))) == [["image", "class", "given", "new"], *keys[:2]]
    assert found["checked"] == [True, True, True]
    assert found["status"] == "0 of 0 images, 2 decisions"


@pytest.mark.slow
def test_a_browser_ticks_filters_and_writes(tmp_path):
    findings = scene()
    text, _ = page(findings, most=9)
    steps = """
      const copies = boxes.filter((box) => JSON.parse(box.dataset.key)[0] === "7.jpg");
      copies[0].click();
      byId("kind").value = "wrong"; show();
      save();
      document.title = `${decisions()}|${byId("write").disabled}|${copies.every((box) => box.checked)}`;
    """
    found = in_browser(tmp_path, text.replace("</body>", f"<script>{steps}</script></body>"))
    title = found.split("<title>")[1].split("</title>")[0].replace("\n", " ").strip()
    assert title.startswith('image,class,given,new "7.jpg","cat","present","absent"')
    assert title.endswith("|false|true")
    wrong = len({one.row for one in listed(findings, "wrong", 9)})
    assert f"{wrong} of " in found
    assert "1 decisions" in found
