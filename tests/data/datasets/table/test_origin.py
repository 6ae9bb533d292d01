from pathlib import Path

import numpy as np
import pytest

from data.datasets.source import DatasetSource
from data.datasets.table.config import TableConfig
from data.datasets.table.origin import TableOrigin, table_origin
from data.datasets.table.reader import load_table
from data.files.cache import Cache
from data.subsets.overlap import without_bad
from tests.data.trees import picture
from utils.checks import RunError, UserError


def table(tmp_path, text, name="l.csv", **columns):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return TableOrigin(path, TableConfig(table=(path,), **columns), tmp_path / "p")


@pytest.mark.parametrize(
    "text, image, line",
    [
        ("image,labels\na.png,x\nb.png,y\n", "b.png", 3),
        ("labels;file\nx;a.png\n\ny;b.png\n", "b.png", 4),
        ('note,image,labels\n"two\nlines",a.png,x\n,deep\\b.png,y\n', "deep/b.png", 4),
        ("image,labels\n./b.png,x\n", "b.png", 2),
        ("image,labels\ncafe\u0301.png,x\n", "caf\u00e9.png", 2),
    ],
)
def test_the_line_of_an_image_is_found(tmp_path, text, image, line):
    origin = table(tmp_path, text)
    assert origin(f"{tmp_path}/p/{image}") == f"{tmp_path}/l.csv, line {line}"


def test_columns_may_have_any_name(tmp_path):
    assert table(tmp_path, "scan\tlabels\na.png\tx\n", "l.tsv", image_column="scan")(f"{tmp_path}/p/a.png").endswith(
        "2"
    )


def test_nothing_is_said_of_a_table_that_has_changed(tmp_path):
    origin = table(tmp_path, "image,labels\na.png,x\n")
    assert origin(f"{tmp_path}/p/other.png") == ""
    origin.table.write_text("labels\nx\n")
    assert origin(f"{tmp_path}/p/a.png") == ""
    origin.table.unlink()
    assert origin(f"{tmp_path}/p/a.png") == ""


def test_check_and_opener_name_the_line_of_a_table(tmp_path, capsys):
    for name in ("a", "b", "c", "d"):
        picture(tmp_path / "p" / f"{name}.png")
    (tmp_path / "p" / "b.png").write_bytes(b"nothing")
    (tmp_path / "l.csv").write_text("image,labels,split\nd.png,x,train\nb.png,y,train\na.png,x,test\nc.png,y,test\n")
    source = DatasetSource(
        tmp_path / "p", Path(), 0, Cache(tmp_path / "cache"), True, TableConfig(table=(tmp_path / "l.csv",))
    )
    train = load_table(source).train
    with pytest.raises(UserError, match=r"image .*/p/b\.png \(.*/l\.csv, line 3\) is damaged .*--bad_images skip"):
        train.images.check()
    assert without_bad(train, "training").tolist() == [1]
    assert "/l.csv, line 3) is damaged (" in capsys.readouterr().out
    with pytest.raises(RunError, match=r"image .*/p/b\.png \(.*/l\.csv, line 3\) cannot be read: it is damaged"):
        train.images.take(np.array([0])).open(0)


def test_each_line_of_several_tables_is_named(tmp_path):
    for name, text in (("a", "image;cat\nx.png;1\ny.png;0\n"), ("b", "file,dog\ny.png,1\nz.png,0\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    paths = (tmp_path / "a.csv", tmp_path / "b.csv")
    origin = table_origin(paths, TableConfig(table=paths, image_column="file"), tmp_path / "p", several=True)
    assert origin(f"{tmp_path}/p/x.png") == f"{tmp_path}/a.csv, line 2"
    assert origin(f"{tmp_path}/p/y.png") == f"{tmp_path}/a.csv, line 3 and {tmp_path}/b.csv, line 2"
    assert origin(f"{tmp_path}/p/no.png") == ""
    assert table_origin((), TableConfig(), tmp_path, several=True) is None
    assert isinstance(table_origin(paths[:1], TableConfig(table=paths[:1]), tmp_path, several=False), TableOrigin)
