import re
from pathlib import Path

import pytest

from data.datasets import DATASETS
from data.download.sources import SOURCES
from engine.core.cli import exit_code
from engine.preparation import command as module
from engine.preparation.command import prepare_command
from tests.commands.scene import refusal, succeed
from tests.data.download.web import Fault, serving, tree_of, voc_like


@pytest.fixture(scope="module")
def web():
    with serving() as web:
        yield web


@pytest.fixture
def ended(web, monkeypatch, tmp_path):
    """Runs the command on a dataset that the server has in the place of VOC 2007."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    web.faults, web.always, web.asked = [], None, []
    source, _ = voc_like(web)
    return lambda *words: exit_code(lambda argv: prepare_command(argv, {"voc07": source}), words)


def test_a_dataset_comes_to_where_training_looks_for_it(web, ended, tmp_path, capsys):
    assert ended("voc07") == 0
    assert tree_of(tmp_path / "Dataset" / "VOCdevkit") == voc_like(web)[1]
    assert capsys.readouterr().out == (
        "voc07: 0.0 GB in 2 archives; terms: none\n"
        f"{web.address}/trainval.tar: 0 MB\ntrainval.tar: as published; unpacking\n"
        f"{web.address}/test.tar: 0 MB\ntest.tar: as published; unpacking\n"
        "voc07: in Dataset/VOCdevkit; look at it with: python inspect_data.py --dataset voc07 --path_images "
        "Dataset/VOCdevkit\n"
    )
    assert ended("voc07") == 0
    assert "voc07: was already in Dataset/VOCdevkit; look at it" in capsys.readouterr().out


def test_folders_may_be_given(ended, tmp_path):
    assert ended("voc07", "--path_images", "a", "--archives=b") == 0
    assert ended("voc07", "--data_dir", "c", "--archives=b") == 0
    assert (tmp_path / "a" / "VOC2007").is_dir()
    assert (tmp_path / "c" / "VOC2007").is_dir()
    assert (tmp_path / "b" / "test.tar").is_file()


def test_what_is_downloaded_already_is_told(web, ended, tmp_path, capsys):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "trainval.tar.part").write_bytes(web.files["trainval.tar"][:100])
    assert ended("voc07", "--archives", "b") == 0
    assert f"{web.address}/trainval.tar: 0 MB, 0 MB are there\n" in capsys.readouterr().out


@pytest.mark.parametrize(("faults", "code"), [([Fault(status=404)], 2), ([Fault(), Fault(status=404)], 1)])
def test_exit_codes(web, ended, tmp_path, capsys, faults, code):
    web.faults = faults
    assert ended("voc07") == code
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"error: http://[\d.:]+/(trainval|test)\.tar: the server answers 404 Not Found; [^\n]+\n", error
    )
    assert (tmp_path / "Dataset").exists() == (code == 1)


def test_an_interruption(ended, monkeypatch, capsys):
    def interrupted(*words):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "prepare", interrupted)
    assert ended("voc07") == 130
    assert capsys.readouterr().err == "interrupted; what is downloaded stays, and the same command goes on\n"


@pytest.mark.parametrize("name", SOURCES)
def test_commands_are_printed(tmp_path, name):
    lines = succeed(tmp_path, "prepare_data.py", name, "--print", "--archives", "kept").splitlines()
    assert re.match(rf"# {name}: \d+\.\d GB in [123] archives?; (annotations|images) are ", lines[0])
    folder = {"voc07": "VOCdevkit", "voc12": "VOCdevkit", "coco": "COCO2014", "coco17": "COCO2017"}[name]
    assert lines[1] == f"mkdir -p Dataset/{folder} kept"
    assert len(lines) == 2 + 3 * len(SOURCES[name].archives)
    assert "-o Dataset/" in succeed(tmp_path, "prepare_data.py", "--print", name)
    assert not list(tmp_path.glob("Dataset"))


def test_one_archive_is_one(tmp_path):
    assert "2.0 GB in 1 archive; images" in succeed(tmp_path, "prepare_data.py", "voc12", "--print")


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - SOURCES.keys() - {"digits", "digits-lt", "letters", "l48"}))
def test_of_others_the_steps_are_printed(tmp_path, name, capsys):
    steps = succeed(tmp_path, "prepare_data.py", name, "--print")
    assert steps.startswith("# ")
    assert f"`{name}`" in steps
    line = refusal(tmp_path, "prepare_data.py", name)
    assert re.fullmatch(
        rf"error: {name}: nothing is downloaded: its steps are done by hand; they are above, more in \S+\.md", line
    )
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_where_a_person_has_to_accept_terms_it_stops(tmp_path):
    line = refusal(tmp_path, "prepare_data.py", "l48")
    assert re.fullmatch(
        r"error: l48: nothing is downloaded: a person has to read and accept its terms first \(\S+/l48\.md\)", line
    )
    assert "TOU.pdf" in succeed(tmp_path, "prepare_data.py", "l48", "--print")


def test_what_is_generated_is_ready(tmp_path):
    for name in ("digits", "digits-lt", "letters"):
        assert "nothing to download" in succeed(tmp_path, "prepare_data.py", name)


def test_published_names(tmp_path):
    assert "`nw-lt`" in succeed(tmp_path, "prepare_data.py", "nus-wide", "--print")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "prepare_data.py: name one dataset, such as voc07"),
        (["voc07", "voc12"], "prepare_data.py: name one dataset, such as voc07"),
        (["voc7"], "prepare_data.py: no dataset 'voc7'; did you mean voc07?"),
        (["imagenet"], f"prepare_data.py: no dataset 'imagenet'; there are {', '.join(DATASETS)}"),
        (["voc07", "--output", "x"], "prepare_data.py: unknown flag --output; --help lists what there is"),
    ],
)
def test_slips(tmp_path, words, told):
    assert refusal(tmp_path, "prepare_data.py", *words) == f"error: {told}"
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_folders_of_the_configuration():
    for name in SOURCES:
        assert (Path(module.CONFIGS) / f"{name}.yaml").is_file()
