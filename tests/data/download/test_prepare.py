import fcntl
import multiprocessing
import shutil
import signal
import subprocess
import time
from collections import namedtuple

import pytest

from data.datasets.coco import load_coco
from data.datasets.voc import load_voc
from data.download import prepare as module
from data.download.commands import commands
from data.download.prepare import move_into, prepare, read_index, room_needed
from data.download.sources import SOURCES, Archive, Source
from tests.commands.scene import tiny_voc
from tests.data.download.web import Fault, archive_of, coco_like, serving, some_bytes, tar_of, tree_of, voc_like, zip_of
from tests.data.trees import coco_json, coco_tree, picture
from tests.data.trees import source as reader_source
from utils.checks import RunError, UserError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def web():
    with serving() as web:
        yield web


@pytest.fixture(autouse=True)
def _fresh(web, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    web.faults, web.always, web.asked = [], None, []


def asked(web):
    return [path for path, _ in web.asked]


def test_a_reader_takes_what_was_prepared_for_voc(web, tmp_path):
    """The two archives of 2007 as they are, in small."""
    root = tiny_voc(tmp_path / "made", rows=9) / "VOC2007"
    tests = {path.stem for path in root.rglob("*.jpg") if int(path.stem) % 3 == 2}
    kits = [{}, {}]
    for path, content in tree_of(root).items():
        name = path.rsplit("/", 1)[-1].split(".")[0]
        kits[name in tests or name == "test"][f"VOCdevkit/VOC2007/{path}"] = content
    archives = tuple(archive_of(web, f"{name}.tar", tar_of(kit)) for name, kit in zip("ab", kits, strict=True))
    parts = {part: min(count, 9) for part, count in SOURCES["voc07"].parts.items()}
    folder = tmp_path / "VOCdevkit"
    assert prepare("voc07", SOURCES["voc07"]._replace(archives=archives, parts=parts), folder)
    assert tree_of(folder / "VOC2007") == tree_of(root)
    splits = load_voc(reader_source(folder, tmp_path / "cache", need_images=True), 2007)
    assert (len(splits.train), len(splits.test)) == (6, 3)
    assert not len(splits.train.images.missing())


def test_a_reader_takes_what_was_prepared_for_coco(web, tmp_path):
    made = tmp_path / "made"
    for number, split in ((7, "train"), (8, "val")):
        (made / f"{split}2014").mkdir(parents=True)
        picture(made / f"{split}2014" / f"{number}.jpg")
    coco_tree(made, 2014, *(coco_json([(n, f"{n}.jpg")], [(n, 2, 0)], [2]) for n in (7, 8)))
    tree = tree_of(made)
    tops = ("annotations", "val2014", "train2014")
    archives = tuple(
        archive_of(web, f"{top}.zip", zip_of({path: tree[path] for path in tree if path.startswith(top)}), 10**6)
        for top in tops
    )
    parts = {part: min(count, 1) for part, count in SOURCES["coco"].parts.items()}
    assert prepare("coco", SOURCES["coco"]._replace(archives=archives, parts=parts), tmp_path / "COCO")
    splits = load_coco(reader_source(tmp_path / "COCO", tmp_path / "cache", need_images=True), 2014)
    assert (splits.train.ids, splits.test.ids) == (("7",), ("8",))


def test_a_dataset_that_is_there_is_left_alone(web, tmp_path):
    source, whole = coco_like(web)
    assert prepare("coco", source, tmp_path / "set")
    requests = len(web.asked)
    assert not prepare("coco", source, tmp_path / "set")
    (tmp_path / "set" / "images").mkdir()
    for split in ("train", "val"):
        (tmp_path / "set" / f"{split}2014").rename(tmp_path / "set" / "images" / f"{split}2014")
    assert not prepare("coco", source, tmp_path / "set")
    assert len(web.asked) == requests
    assert len(tree_of(tmp_path / "set")) == len(whole)


def test_a_part_of_a_dataset_is_refused_untouched(web, tmp_path):
    source, whole = voc_like(web)
    assert prepare("voc07", source, tmp_path)
    (tmp_path / "VOC2007" / "JPEGImages" / "000001.jpg").unlink()
    told = (
        rf"^{tmp_path}: holds a part of voc07 that was not put there by this command \(VOC2007/JPEGImages: 2 of 3, "
        r"VOC2007/Annotations: 3 of 3, VOC2007/ImageSets/Main/test.txt: 1 of 1\); move it away, or give --path_images"
    )
    with pytest.raises(UserError, match=told):
        prepare("voc07", source, tmp_path)
    assert len(tree_of(tmp_path)) == len(whole) - 1
    assert not (tmp_path / ".prepare-voc07").exists()


@pytest.mark.parametrize("part", ["VOC2007/x", "VOC2007"])
def test_any_folder_of_the_name_is_a_part(web, tmp_path, part):
    (tmp_path / part).mkdir(parents=True)
    with pytest.raises(UserError, match="holds a part of voc07"):
        prepare("voc07", voc_like(web)[0], tmp_path)


@pytest.mark.parametrize("part", ["train2014", "annotations/instances_val2014.json"])
def test_a_part_of_coco(web, tmp_path, part):
    source, _ = coco_like(web)
    (tmp_path / part).mkdir(parents=True)
    if "." in part:
        (tmp_path / part).rmdir()
        (tmp_path / part).touch()
    with pytest.raises(UserError, match="holds a part of coco"):
        prepare("coco", source, tmp_path)


def test_other_datasets_may_lie_beside_it(web, tmp_path):
    (tmp_path / "VOC2012").mkdir()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text("{}")
    for name, (source, _) in (("voc07", voc_like(web)), ("coco", coco_like(web))):
        assert prepare(name, source, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"VOC2007", "VOC2012", "annotations", "train2014", "val2014"}
    assert (tmp_path / "annotations" / "instances_train2017.json").read_text() == "{}"


def test_another_file_of_a_name_is_never_replaced(web, tmp_path):
    source, whole = coco_like(web)
    mine = tmp_path / "annotations" / "captions_val2014.json"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(RunError, match=rf"^{mine}: something else stands where the dataset belongs; move it away, and"):
        prepare("coco", source, tmp_path)
    assert mine.read_text() == "mine"
    mine.unlink()
    requests = len(web.asked)
    assert prepare("coco", source, tmp_path)
    assert (tree_of(tmp_path), len(web.asked)) == (whole, requests)


def test_archives_are_removed_or_kept_and_used_again(web, tmp_path):
    source, whole = voc_like(web)
    names = ["/trainval.tar", "/test.tar"]
    assert prepare("voc07", source, tmp_path / "one")
    assert sorted(path.name for path in tmp_path.rglob("*.tar*")) == []
    assert prepare("voc07", source, tmp_path / "two", tmp_path / "kept")
    assert asked(web) == 2 * names
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["test.tar", "trainval.tar"]
    assert prepare("voc07", source, tmp_path / "three", tmp_path / "kept")
    assert asked(web) == 2 * names
    assert tree_of(tmp_path / "three") == whole
    assert len(list((tmp_path / "kept").iterdir())) == 2


@pytest.mark.parametrize("content", ["half", "other"])
def test_a_wrong_archive_of_ones_own_is_not_touched(web, tmp_path, content):
    source, _ = voc_like(web)
    right = web.files["trainval.tar"]
    held = right[: len(right) // 2] if content == "half" else right[:-1] + b"?"
    path = tmp_path / "kept" / "trainval.tar"
    path.parent.mkdir()
    path.write_bytes(held)
    told = rf"^{path}: not the published file \({len(held)} bytes of {len(right)}, or another MD5\); remove it, or call"
    with pytest.raises(UserError, match=told):
        prepare("voc07", source, tmp_path / "set", tmp_path / "kept")
    assert path.read_bytes() == held
    assert not (tmp_path / "set").exists()


def test_the_beginning_of_an_archive_of_ones_own_is_gone_on_with(web, tmp_path):
    source, whole = voc_like(web)
    (tmp_path / "trainval.tar.part").write_bytes(web.files["trainval.tar"][:1234])
    assert prepare("voc07", source, tmp_path / "set", tmp_path)
    assert web.asked[0] == ("/trainval.tar", "bytes=1234-")
    assert tree_of(tmp_path / "set") == whole


def test_after_the_first_archive_only_the_second_is_fetched(web, tmp_path):
    source, whole = voc_like(web)
    web.faults = [Fault(), Fault(status=404)]
    told = r"test\.tar: the server answers 404 Not Found; .*; what is downloaded stays, and the same command goes on$"
    with pytest.raises(RunError, match=told):
        prepare("voc07", source, tmp_path)
    assert prepare("voc07", source, tmp_path)
    assert asked(web) == ["/trainval.tar", "/test.tar", "/test.tar"]
    assert tree_of(tmp_path) == whole


def test_an_archive_that_lacks_a_part_puts_nothing_in_place(web, tmp_path):
    source, _ = voc_like(web)
    with pytest.raises(RunError, match=rf"^{tmp_path}/\.prepare-voc07/whole/VOC2007/more: not complete; remove "):
        prepare("voc07", source._replace(parts={**source.parts, "VOC2007/more": 1}), tmp_path)
    assert tree_of(tmp_path) == {}


def test_a_file_that_was_lost_before_it_was_moved_is_noticed(web, tmp_path, monkeypatch):
    source, _ = voc_like(web)
    web.faults = [Fault(), Fault(status=404)]
    with pytest.raises(RunError):
        prepare("voc07", source, tmp_path)
    lost = tmp_path / ".prepare-voc07" / "trainval.tar.unpacked" / "VOC2007" / "JPEGImages" / "000001.jpg"
    lost.write_bytes(b"")  # as after a power cut
    with pytest.raises(RunError, match=r"VOC2007/JPEGImages/000001\.jpg: not complete; remove .* and begin anew$"):
        prepare("voc07", source, tmp_path)
    assert tree_of(tmp_path) == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b'{"VOC2007/x": "1"}'])
def test_a_damaged_note_of_what_was_unpacked(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RunError, match=rf"^{tmp_path}/a\.json: damaged; remove {tmp_path}, and begin anew$"):
        read_index(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"VOC2007/x": 1}')
    assert read_index(tmp_path / "a.json") == {"VOC2007/x": 1}


def test_what_the_system_refuses_amid_a_download(web, tmp_path, monkeypatch):
    source, whole = voc_like(web)

    def refused(path):
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(module, "read_index", refused)
        with pytest.raises(
            RunError, match=r"trainval\.tar\.json: Input/output error; what is downloaded stays, and the"
        ):
            prepare("voc07", source, tmp_path)
    assert prepare("voc07", source, tmp_path)
    assert tree_of(tmp_path) == whole


def test_no_room(web, tmp_path, monkeypatch):
    source, _ = voc_like(web)
    downloads, content = room_needed(source.archives, {"trainval.tar": 0, "test.tar": 0}, keep=False)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(0, 0, downloads + content - 1))
    with pytest.raises(UserError, match=rf"^{tmp_path}/set: has 0\.0 GB free of the 0\.0 GB that are needed; give"):
        prepare("voc07", source, tmp_path / "set")
    assert not list(tmp_path.iterdir())
    assert web.asked == []
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(0, 0, downloads + content))
    assert prepare("voc07", source, tmp_path / "set")


def test_room_needed():
    archives = (Archive("x/a", 10, "", 15), Archive("x/b", 30, "", 31))
    assert room_needed(archives, {"a": 0, "b": 4}, keep=False) == (26, 46)
    assert room_needed(archives, {"a": 0, "b": 4}, keep=True) == (36, 46)
    assert room_needed((), {}, keep=False) == (0, 0)


def test_two_at_once(web, tmp_path):
    source, whole = voc_like(web)
    work = tmp_path / ".prepare-voc07"
    work.mkdir()
    with (work / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=rf"^{work}: another prepare_data\.py is at work there; wait until it has"):
            prepare("voc07", source, tmp_path)
        assert (work / ".lock").exists()
    assert prepare("voc07", source, tmp_path)
    assert tree_of(tmp_path) == whole


def test_a_folder_that_cannot_be(web, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=rf"^--path_images {tmp_path}/file/set/\.prepare-x: cannot be made \(Not a dir"):
        prepare("x", voc_like(web)[0], tmp_path / "file" / "set")
    with pytest.raises(UserError, match=rf"^--archives {tmp_path}/file: cannot be made \(File exists\); name another"):
        prepare("x", voc_like(web)[0], tmp_path / "set", tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / ".prepare-x" / ".lock").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"^{tmp_path}/\.prepare-x: cannot be written \(Is a directory\); give --path"):
        prepare("x", voc_like(web)[0], tmp_path)


def test_nothing_is_left_where_nothing_had_begun(web, tmp_path):
    web.always = Fault(status=404)
    with pytest.raises(UserError):
        prepare("voc07", voc_like(web)[0], tmp_path / "a" / "b", tmp_path / "kept")
    assert not list(tmp_path.iterdir())
    (tmp_path / "kept").mkdir()
    with pytest.raises(UserError):
        prepare("voc07", voc_like(web)[0], tmp_path / "a" / "b", tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_moving(tmp_path):
    for folder, names in (("one", ("a/1", "a/2", "b/3")), ("two", ("a/4", "a/2"))):
        for name in names:
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(folder)
    (tmp_path / "two" / "a" / "2").write_text("other")
    with pytest.raises(RunError, match="a/2: something else stands"):
        move_into(tmp_path / "two", tmp_path / "one")
    move_into(tmp_path / "two", tmp_path / "one", replace=True)
    expected = {"a/1": b"one", "a/2": b"other", "a/4": b"two", "b/3": b"one"}
    assert tree_of(tmp_path / "one") == expected
    assert not (tmp_path / "two").exists()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "b").write_text("")
    with pytest.raises(RunError, match="one/b: something else stands"):
        move_into(tmp_path / "two", tmp_path / "one", replace=True)


@pytest.mark.skipif(any(shutil.which(each) is None for each in ("bash", "curl", "md5sum", "unzip")), reason="no tools")
@pytest.mark.parametrize("like", [voc_like, coco_like])
def test_the_printed_commands_do_the_same(web, tmp_path, like):
    source, whole = like(web)
    lines = list(commands(source, tmp_path / "a set", tmp_path / "kept archives"))
    assert len(lines) == 1 + 3 * len(source.archives)
    done = subprocess.run(["bash", "-e", "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tree_of(tmp_path / "a set") == whole
    web.always = Fault(flip=600)
    shutil.rmtree(tmp_path / "kept archives")
    done = subprocess.run(["bash", "-e", "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_processes_go_on(web, tmp_path):
    """SIGKILL at twenty moments of one download; what is left goes on to the right tree."""
    trees = [
        {f"VOCdevkit/VOC2007/{n}.jpg": some_bytes(n, 20_000) for n in part} for part in (range(99), range(99, 200))
    ]
    archives = [archive_of(web, f"{name}.tar", tar_of(tree)) for name, tree in zip("ab", trees, strict=True)]
    source = Source(tuple(archives), {"VOC2007": 200}, "", inside="VOCdevkit")
    whole = {path.removeprefix("VOCdevkit/"): content for tree in trees for path, content in tree.items()}
    start = time.monotonic()
    prepare("some", source, tmp_path / "undisturbed")
    longest = time.monotonic() - start
    stopped = 0
    for moment in range(20):
        folder = tmp_path / f"set{moment // 4}"  # each is killed up to four times
        process = multiprocessing.get_context("fork").Process(target=prepare, args=("some", source, folder))
        process.start()
        process.join(longest * (1 + moment * 7 % 20) / 20)
        process.kill()
        process.join()
        stopped += process.exitcode == -signal.SIGKILL
        assert tree_of(folder) in ({}, whole)
    assert stopped > 5
    for folder in sorted(tmp_path.iterdir()):
        prepare("some", source, folder)
        assert tree_of(folder) == whole
        assert [path.name for path in folder.iterdir()] == ["VOC2007"]
