import csv
import io

from engine.audit.findings import listed
from engine.audit.ranking import AlikePair
from engine.audit.tables import alike_csv, audit_csv, classes_csv, duplicates_csv
from tests.engine.audit.test_findings import found  # noqa: F401 - a fixture


def rows(text):
    return list(csv.reader(io.StringIO(text)))


def test_suspicions(found):  # noqa: F811
    titles, first = rows(audit_csv(found, listed(found, "missing", 1)))
    assert titles[:9] == ["kind", "rank", "image", "class", "given", "suggested", "score", "rank_in_class", "sure"]
    assert first[:10] == ["missing", "1", "a1", "x", "absent", "present", "0.8000", "1", "1", "train"]


def test_classes(found):  # noqa: F811
    titles, cat, _ = rows(classes_csv(found))
    assert dict(zip(titles, cat, strict=True)) == {
        "class": "x",
        "present": "2",
        "absent": "3",
        "unknown": "0",
        "mean_where_present": "0.6000",
        "mean_where_absent": "0.3667",
        "sure_missing": "1",
        "sure_wrong": "1",
        "sure_unknown": "0",
        "not_ranked_because": "",
    }


def test_duplicates_with_and_without_a_contradiction(found):  # noqa: F811
    assert rows(duplicates_csv(found))[1:] == [["a0", "a1", "0.9900", "x", "a0", "0.9000", "0.8000"]]
    assert rows(duplicates_csv(found._replace(contradictions=[])))[1:] == [["a0", "a1", "0.9900", "", "", "", ""]]


def test_classes_that_look_alike(found):  # noqa: F811
    pair = AlikePair(1, 0, 7, 0.25, float("nan"), 2)
    assert rows(alike_csv(found._replace(alike=[pair])))[1:] == [["y", "x", "7", "0.2500", "", "2"]]
