"""The page of predictions: everything is on it, and nothing that a name says does anything."""

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from engine.prediction.html import Page, Tile, contact_sheet
from engine.prediction.predictor import Label, Unreadable
from tests.engine.checkpoints import pixels

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}{% raw %}{#${count}&amp;'</title></style>"
HOSTILE_NAMES = (
    "<script>",
    '"onerror="alert(1)',
    "'",
    "{{7*7}}",
    "{% for %}",
    "{#",
    "</script>",
    "&lt;",
    "$count",
    "a\nb",
)
VOID = {"meta", "img", "input"}


class Read(HTMLParser):
    """What is on a page: elements with their attributes, tiles, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.tiles, self.options, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert len(found) == len(attributes)
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if found.get("class") == "tile":
            self.tiles.append({"labels": [], "name": ""})
        if tag == "img":
            self.tiles[-1]["image"] = found
        if "data-label" in found:
            self.tiles[-1]["labels"].append((found["data-label"], float(found["data-score"])))
        if tag == "option":
            self.options.append(found["value"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] == "figcaption":
            self.tiles[-1]["name"] += text
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(text)


def thumbnail(seed):
    buffer = io.BytesIO()
    pixels(seed).save(buffer, "JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def tile(name, *labels, seed=0):
    found = [Label(label, score, column) for column, (label, score) in enumerate(labels)]
    return Tile(name, thumbnail(seed), (53, 37), found)


def page(*tiles, source="best.pth", unreadable=()):
    return contact_sheet(Page(source, tiles, unreadable))


def test_every_image_and_label_is_there():
    tiles = [tile(f"{n}.jpg", ("cat", 0.9 - n / 10), ("dog", 0.25), seed=n) for n in range(5)] + [tile("none.jpg")]
    read = Read(page(*tiles))
    assert [one["name"] for one in read.tiles] == [one.name for one in tiles]
    for found, given in zip(read.tiles, tiles, strict=True):
        assert found["labels"] == [(one.name, pytest.approx(one.score, abs=1e-6)) for one in given.labels]
        assert found["image"]["loading"] == "lazy"
        assert given.name in found["image"]["alt"]
        assert all(one.name in found["image"]["alt"] for one in given.labels)
        kind, _, data = found["image"]["src"].partition(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (53, 37)
    assert read.options[:3] == ["", "cat", "dog"]
    assert "6 images" in read.text


def test_bars_are_as_long_as_scores():
    styles = [
        found["style"]
        for _, found in Read(page(tile("a", ("x", 0.5), ("y", 1.0), ("z", 0.0)))).elements
        if "data-label" in found
    ]
    assert styles == ["--share:50.0%", "--share:100.0%", "--share:0.0%"]


def test_hostile_names_are_text():
    plain = Read(page(tile("a", ("b", 0.5)), source="c", unreadable=[Unreadable("d", "e")]))
    read = Read(page(tile(HOSTILE, (HOSTILE, 0.5)), source=HOSTILE, unreadable=[Unreadable(HOSTILE, HOSTILE)]))
    assert [(tag, sorted(found)) for tag, found in read.elements] == [
        (tag, sorted(found)) for tag, found in plain.elements
    ]
    assert read.tiles[0]["name"] == HOSTILE
    assert read.tiles[0]["labels"] == [(HOSTILE, 0.5)]
    assert HOSTILE in read.options


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_are_read_back_as_they_are(name):
    read = Read(page(tile(name, (name, 0.5)), source=name, unreadable=[Unreadable(name, "is damaged")]))
    assert read.tiles[0]["name"] == name
    assert read.tiles[0]["labels"] == [(name, 0.5)]
    assert read.tiles[0]["image"]["alt"] == f"{name}: {name} 0.50"
    assert read.options == ["", name, "given", "high", "low"]
    assert read.text.count(f"{name}: is damaged") == 1
    assert read.text.count(f"Predictions of {name}") == 1


def test_bytes_that_are_no_letters_are_spelled_out():
    text = page(tile(b"\xff.jpg".decode("utf-8", "surrogateescape"), ("a\0b", 0.5)))
    text.encode()
    assert "\0" not in text
    assert "\\x00" in text


def test_the_page_asks_nobody_for_anything():
    read = Read(page(tile("a", ("b", 0.5))))
    for tag, found in read.elements:
        assert tag not in ("link", "iframe", "object")
        assert "href" not in found
        assert found.get("src", "data:").startswith("data:")
        assert not any(name.startswith("on") for name in found)
    policy = next(found["content"] for _, found in read.elements if "http-equiv" in found)
    assert policy.startswith("default-src 'none';")


def test_controls_have_names():
    text = page(tile("a", ("b", 0.5)))
    read = Read(text)
    controls = [tag for tag, _ in read.elements if tag in ("input", "select")]
    assert len(controls) == 4
    for control in ('id="search"', 'id="label"', 'id="least"', 'id="order"'):
        before = text[: text.index(control)]
        assert before.rindex("<label>") > before.rfind("</label>")


def test_what_could_not_be_read_is_listed():
    read = Read(page(tile("a"), unreadable=[Unreadable("cut.jpg", "is damaged")]))
    assert "1 could not be read" in read.text
    assert "cut.jpg: is damaged" in read.text
    assert "details" not in [tag for tag, _ in Read(page(tile("a"))).elements]


def in_browser(tmp_path, text):
    """The page as a browser has it once all scripts have run."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here; apt-get install chromium")
    file = tmp_path / "page.html"
    file.write_text(text)
    quiet = ["gpu", "quic", "first-run", "background-networking", "component-update", "sync"]
    flags = ["--no-first-run" if name == "first-run" else f"--disable-{name}" for name in quiet]
    words = [browser, "--headless", "--no-sandbox", *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run([*words, file.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


def seen(text):
    """Names of the tiles that a browser shows, in order."""
    found, read = [], Read(text)
    elements = [attributes for _, attributes in read.elements if attributes.get("class") == "tile"]
    for attributes, one in zip(elements, read.tiles, strict=True):
        if "hidden" not in attributes:
            order = re.search(r"order: (\d+)", attributes.get("style", "order: 0"))
            found.append((int(order.group(1)), one["name"]))
    return [name for _, name in sorted(found, key=lambda item: item[0])]


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps, shown",
    [
        ("", ["a.jpg", "b.jpg", "c.jpg"]),
        ('byId("label").value = "dog"; byId("order").value = "high";', ["c.jpg", "a.jpg"]),
        ('byId("label").value = "dog"; byId("least").value = "0.5";', ["c.jpg"]),
        ('byId("search").value = "B.JPG cat";', ["b.jpg"]),
        ('byId("order").value = "low";', ["b.jpg", "c.jpg", "a.jpg"]),
        ('byId("search").value = "nothing";', []),
    ],
)
def test_a_browser_searches_filters_and_sorts(tmp_path, steps, shown):
    tiles = [
        tile("a.jpg", ("cat", 0.9), ("dog", 0.3)),
        tile("b.jpg", ("cat", 0.4)),
        tile("c.jpg", ("dog", 0.8), (HOSTILE, 0.7)),
    ]
    text = page(*tiles).replace("</body>", f"<script>{steps} update();</script></body>")
    found = in_browser(tmp_path, text)
    assert seen(found) == shown
    assert f"{len(shown)} of 3 images" in found
    assert "alert(1)</script>" not in found.replace("&lt;script&gt;alert(1)&lt;/script&gt;", "")
