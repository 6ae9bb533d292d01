from engine.audit.ranking import AlikePair
from engine.audit.text import as_text
from tests.engine.audit.test_findings import found  # noqa: F401 - a fixture


def test_the_summary_names_the_first_of_each_kind(found):  # noqa: F811
    lines = as_text(found._replace(alike=[AlikePair(1, 0, 7, 0.25, 0.1, 2)])).splitlines()
    assert lines[0] == "5 images, 2 classes"
    assert lines[1] == "labelled absent, probably present: 1 of 6 beyond the threshold of their class"
    assert lines[2] == "  0.80  x  a1"
    assert lines[-2] == "nearly the same images: 1 pairs, of which 1 have contradicting labels"
    assert lines[-1] == "looks alike: y without x is x to 25% (elsewhere 10%)"


def test_of_many_classes_that_are_not_ranked_the_first_are_named(found):  # noqa: F811
    one = found.classes[0]._replace(why_not="only 2 present of the 9 that are needed")
    lines = as_text(found._replace(classes=[one._replace(name=str(number)) for number in range(7)])).splitlines()
    assert lines[-6:-4] == [
        "not ranked: 0: only 2 present of the 9 that are needed",
        "not ranked: 1: only 2 present of the 9 that are needed",
    ]
    assert lines[-1] == "not ranked: 2 more classes (classes.csv)"
