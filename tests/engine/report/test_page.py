"""Reports as pages: all is on them, nothing is fetched, and nothing that a name says does anything."""

import re

import pytest

from engine.report.content import (
    Bin,
    ComparisonReport,
    Picture,
    RunReport,
    SettingLine,
    Step,
    Suspicious,
    Table,
)
from engine.report.page import comparison_page, run_page
from tests.engine.prediction.test_html import HOSTILE, HOSTILE_NAMES, in_browser
from tests.engine.report.pages import Page

FIGURES = {
    "interval": "40.1-60.2",
    "threshold": "0.375",
    "AP": 0.5,
    "AUROC": None,
    "precision": 0.25,
    "recall": 0.125,
    "F1": 1 / 3,
}
ONE = RunReport(
    title="LL-R on voc07",
    subtitle="run: resnet50",
    figures=[("mAP", "61.25")],
    facts=[("images", "2,000 train")],
    notes=["No test image has owl: left out of mAP."],
    worst=["dog 1.00", "cat 2.00"],
    classes=[
        {"class": "cat", "positives": 1234, "known": 5678, **FIGURES},
        {
            "class": "owl",
            "positives": 0,
            "known": 5678,
            **dict.fromkeys(FIGURES),
            "interval": "-",
            "threshold": "0.125",
        },
    ],
    left_out=0,
    pictures=[Picture("Curves", "lines", "cGl4ZWxz")],
    confidence=[Bin(0.0, 0.1, 0.25, 0.75)],
    epochs=Table(["epoch", "found"], [["1", "12.50"]]),
    suspicious=[Suspicious("a.jpg", "cat", "absent", 7.125, "present")],
    steps=[Step("Score it:", "python evaluate.py --load_from best.pth")],
    given=[SettingLine("lr", "0.1", "command line")],
    defaults=[SettingLine("seed", "0", "default")],
)
LEAST = ONE._replace(
    notes=[], worst=[], pictures=[], confidence=[], epochs=Table(["epoch"], []), suspicious=[], given=[], defaults=[]
)
BOTH = ComparisonReport(
    title="2 runs side by side",
    runs=Table(
        ["method", "dataset", "labels", "mAP"], [["a", "voc07", "single", "61.25"], ["b", "voc07", "single", "50"]]
    ),
    means="means of a",
    notes=["note: not the same"],
    differing=Table(["setting", "a", "b"], [["lr", "0.1", "0.2"]]),
    classes=Table(["class", "a", "b"], [["cat", "50.00", "60.00"], ["owl", "-", "-"]]),
    best=[2, 0],
    pictures=[Picture("Curves", "lines", "cGl4ZWxz")],
)


def test_all_of_a_run_is_on_its_page():
    page = Page(run_page(ONE))
    for text in (
        *("LL-R on voc07", "run: resnet50", "61.25", "2,000 train", "No test image has owl: left out of mAP."),
        *("Lowest average precision: dog 1.00, cat 2.00.", "1,234", "5,678", "50.00", "25.00", "12.50", "33.33", "-"),
        *("Curves", "0.0 to 0.1", "75.00", "a.jpg", "absent", "7.12", "present", "Score it:"),
        *("python evaluate.py --load_from best.pth", "command line", "1 settings at their defaults"),
    ):
        assert text in page.text, text
    assert page.rows() == 3 + 2 + 2 + 2 + 2 + 2
    bars = [found["style"] for _, found in page.elements if "style" in found]
    assert bars == ["--part:50.0%", "--part:25.0%", "--part:75.0%"]
    assert [found["src"] for tag, found in page.elements if tag == "img"] == ["data:image/png;base64,cGl4ZWxz"]
    assert "left out." not in page.text
    assert "The 1,500 classes in the middle are left out." in Page(run_page(ONE._replace(left_out=1500))).text


def test_what_a_run_has_not_is_not_on_its_page():
    page = Page(run_page(LEAST))
    headings = [found["id"] for tag, found in page.elements if tag == "h2"]
    assert headings == ["run", "classes", "suspicious", "use", "settings"]
    assert "Losses of single labels were not recorded" in page.text
    assert "Lowest" not in page.text
    assert [found["id"] for tag, found in Page(run_page(ONE)).elements if tag == "h2"] == [
        *("run", "classes", "pictures", "confidence", "changes", "suspicious", "use", "settings")
    ]


def test_several_runs_are_side_by_side():
    page = Page(comparison_page(BOTH))
    for text in ("2 runs side by side", "means of a", "note: not the same", "lr", "0.2", "Curves"):
        assert text in page.text
    assert page.rows() == 3 + 3 + 2
    assert sum(found.get("class") == "best" for _, found in page.elements) == 1
    bare = Page(
        comparison_page(BOTH._replace(classes=Table([], []), best=[], pictures=[], differing=Table([], []), means=""))
    )
    assert [found["id"] for tag, found in bare.elements if tag == "h2"] == ["runs"]
    assert "pre" not in [tag for tag, _ in bare.elements]


@pytest.mark.parametrize("name", [HOSTILE, *HOSTILE_NAMES])
def test_a_name_is_only_text(name):
    hostile = ONE._replace(
        title=name,
        subtitle=name,
        facts=[(name, name)],
        notes=[name],
        worst=[name],
        classes=[{**ONE.classes[0], "class": name}],
        pictures=[Picture(name, name, "")],
        epochs=Table([name] * 2, [[name] * 2]),
        suspicious=[Suspicious(name, name, name, 1.0, name)],
        steps=[Step(name, name)],
        given=[SettingLine(name, name, name)],
    )
    page, plain = Page(run_page(hostile)), Page(run_page(ONE._replace(classes=ONE.classes[:1])))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    several = BOTH._replace(title=name, notes=[name], means=name, runs=Table([name] * 4, [[name] * 4] * 2))
    assert [tag for tag, _ in Page(comparison_page(several)).elements] == [
        tag for tag, _ in Page(comparison_page(BOTH)).elements
    ]


@pytest.mark.slow
def test_a_browser_shows_it_without_complaint(tmp_path):
    found = in_browser(tmp_path, run_page(ONE))
    assert "LL-R on voc07" in found
    assert "python evaluate.py --load_from best.pth" in found


def test_thresholds_have_a_column_where_there_are_any():
    with_them, without = (
        Page(run_page(ONE._replace(classes=[{**row, "threshold": text} for row in ONE.classes])))
        for text in ("0.375", "")
    )
    assert "0.375" in with_them.text
    assert "the highest F1 on" in " ".join(with_them.text.split())
    assert "threshold" not in without.text


def test_intervals_have_a_column_where_there_are_any():
    rows = [{**row, "interval": ""} for row in ONE.classes]
    with_them, without = (run_page(each) for each in (ONE, ONE._replace(classes=rows)))
    parts = [page.split('id="classes"')[1].split("</thead>")[0] for page in (with_them, without)]
    heads = [re.findall(r"<th[^>]*>([^<]*)</th>", part) for part in parts]
    assert heads[0] == [
        "class",
        "positives",
        "known",
        "AP",
        "interval",
        "AUROC",
        "precision",
        "recall",
        "F1",
        "threshold",
    ]
    assert heads[1] == [name for name in heads[0] if name != "interval"]
    assert with_them.count("<td>40.1-60.2</td>") == 1
    assert "40.1" not in without
