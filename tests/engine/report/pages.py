"""Pages read back: every element closed, every name defined once, nothing fetched."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img"}
PARENTS = {"tr": {"thead", "tbody"}, "td": {"tr"}, "th": {"tr"}, "dt": {"dl", "div"}, "dd": {"dl", "div"}}


class Page(HTMLParser):
    """Elements of a page with their attributes, and its text without styles."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        assert text.lstrip().startswith("<!DOCTYPE html>")
        self.feed(text)
        self.close()
        assert self.open == []
        ids = [found["id"] for _, found in self.elements if "id" in found]
        assert len(set(ids)) == len(ids)
        for _, found in self.elements:
            target = found.get("href", "#")
            assert target == "#" or target.removeprefix("#") in ids
            assert found.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert not re.search(r"https?:|url\(|@import|<script|javascript:", text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        assert len(found) == len(attributes)
        assert tag not in PARENTS or self.open[-1] in PARENTS[tag], (tag, self.open)
        assert tag != "img" or found["alt"]
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] != "style":
            self.text += text

    def rows(self):
        """Number of rows of tables."""
        return sum(tag == "tr" for tag, _ in self.elements)
