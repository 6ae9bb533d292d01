"""Tables of labels that memory does not hold are refused before they are made."""

import pytest

from data.datasets import dense
from data.datasets.source import DatasetSource
from data.datasets.table.config import TableConfig
from data.datasets.table.formats import read_tables
from data.files.cache import Cache
from utils.checks import UserError


def test_what_memory_holds_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(dense, "usable_memory", lambda: 4 * 6)
    dense.require_room(tmp_path, 3, 2)
    with pytest.raises(UserError, match=r"4 images of 2 classes take 0\.0 GiB to read, of which 0\.0 are free"):
        dense.require_room(tmp_path, 4, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,labels\na.jpg,x|y\nb.jpg,y|z\n", "2 images of 3 classes"),
        ("image,label\na.jpg,x\na.jpg,y\nb.jpg,z\n", "2 images of 3 classes"),
        ("image,x,y,z\na.jpg,1,0,1\nb.jpg,0,1,0\n", "2 lines of 3 classes"),
    ],
)
def test_tables_of_all_forms_are_refused_in_one_line(monkeypatch, tmp_path, text, said):
    monkeypatch.setattr(dense, "usable_memory", lambda: 4 * 6 - 1)
    path = tmp_path / "tags.csv"
    path.write_text(text)
    source = DatasetSource(tmp_path, tmp_path, 0, Cache(tmp_path / "cache"), False, TableConfig(table=(path,)))
    with pytest.raises(UserError) as told:
        read_tables(source, (path,), lambda _: None)
    assert str(told.value).startswith(f"{path}: {said} take ")
    assert "\n" not in str(told.value)
    monkeypatch.setattr(dense, "usable_memory", lambda: 4 * 6)
    assert read_tables(source, (path,), lambda _: None).codes.shape == (2, 3)
