import pytest

from data.datasets import DATASETS
from data.download.sources import SOURCES
from engine.preparation.pages import PAGES, needs_nothing, page_of, steps, terms
from utils.checks import UserError

PAGE = """# Some

`some` `other`: some data.

Get it.

```
a tree
```

More.

```
another
```

Between.

- a remark

```
not this
```

## Terms

Read them.

## More
"""


def test_every_dataset_has_a_page():
    pages = {name: page_of(name).name for name in DATASETS}
    assert {name: pages[name] for name in ("vg", "l48", "coco-lt", "digits-lt", "table", "coco17")} == {
        **{"vg": "vg.md", "l48": "l48.md", "coco-lt": "long_tail_lists.md", "digits-lt": "digits.md"},
        **{"table": "table.md", "coco17": "coco.md"},
    }


def test_a_dataset_without_a_page(tmp_path):
    (tmp_path / "a.md").write_text(PAGE)
    assert page_of("other", tmp_path) == tmp_path / "a.md"
    with pytest.raises(UserError, match="no page of othe there; run the scripts from a whole checkout"):
        page_of("othe", tmp_path)


def test_steps_end_with_the_last_tree_before_the_remarks():
    assert steps(PAGE) == PAGE.split("\n\nBetween.")[0]
    assert steps("# A\n\n`a`: b.\n\nText.\n\n- remark\n") == "# A\n\n`a`: b.\n\nText."
    assert steps("# A\n\n`a`: b.\n") == "# A\n\n`a`: b."


def test_terms_are_a_section():
    assert terms(PAGE) == "Read them."
    assert terms("# A\n\n`a`: b.\n\nTerms\n") == ""
    assert terms("# A\n\n`a`: b.\n\n## Terms\n\nTo the end.\n") == "To the end."


def test_what_the_pages_say_today():
    texts = {name: page_of(name).read_text() for name in DATASETS}
    assert {name for name, text in texts.items() if terms(text)} == {"l48"}
    assert {name for name, text in texts.items() if needs_nothing(text)} == {"digits", "digits-lt", "letters"}
    for name in DATASETS.keys() - SOURCES.keys():
        assert 3 <= len(steps(texts[name]).splitlines()) <= 60, name
    assert "TOU.pdf" in steps(texts["l48"])
    assert steps(texts["vg"]).endswith("(or all images in VG_100K/)\n```")
    assert PAGES.is_dir()
