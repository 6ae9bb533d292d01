"""Downloads that are disturbed: never a wrong tree, one clear line, and the same command goes on to the right tree."""

import errno
import io
import tarfile
import zipfile

import pytest

from data.download import fetch, unpack
from data.download.prepare import prepare
from tests.data.download import web as web_module
from tests.data.download.web import Fault, coco_like, serving, tree_of, voc_like
from utils.checks import RunError, UserError

CUTS = (0, 1, 511, 1500)
GONE = (401, 403, 404, 410)
BUSY = (408, 429, 500, 502, 503, 504)
MOVED = (301, 302, 303, 307, 308)

PASSING = {
    **{f"cut at {cut}": [Fault(cut=cut)] for cut in CUTS},
    **{f"cut at {cut}, then no ranges": [Fault(cut=cut), Fault(no_range=True)] for cut in CUTS[1:]},
    "cut again and again": [Fault(cut=cut) for cut in (700, 300, 1, 500)],
    "cut without ranges again and again": [
        Fault(cut=700),
        *(Fault(cut=cut, no_range=True) for cut in (900, 100, 1500)),
    ],
    "cut five times at the same byte": [Fault(cut=700), *[Fault(cut=0)] * 4],
    "cut in the second archive": [Fault(), Fault(cut=100)],
    "no answer": [Fault(silent=True)],
    "no answer to the rest": [Fault(cut=600), Fault(silent=True)],
    **{f"altered byte {flip}": [Fault(flip=flip)] for flip in (0, 600, 1500)},
    "altered before a cut": [Fault(flip=5, cut=600)],
    "altered after a cut": [Fault(cut=600), Fault(flip=1100)],
    "altered in the second archive": [Fault(), Fault(flip=700)],
    "another part than asked": [Fault(cut=600), Fault(content_range="bytes 0-99/100")],
    "a part of a file of another size": [Fault(cut=600), Fault(content_range="bytes 600-999/1000")],
    "a part that does not say which": [Fault(cut=600), Fault(content_range="bytes")],
    "416 to the rest": [Fault(cut=600), Fault(status=416)],
    "no length": [Fault(no_length=True)],
    "no length, and cut": [Fault(no_length=True, cut=800)],
    **{f"busy with {code}": [Fault(status=code)] for code in BUSY},
    "busy after a cut": [Fault(cut=100), Fault(status=503, headers=(("Retry-After", "7"),))],
}
"""Faults after which the same command comes to its end."""
ENDING = {
    **{f"gone with {code}": [Fault(status=code)] for code in GONE},
    "gone after a cut": [Fault(cut=600), Fault(status=404)],
    "gone in the second archive": [Fault(), Fault(status=404)],
    "altered twice": [Fault(flip=600), Fault(flip=600)],
    "altered twice in the second archive": [Fault(), Fault(flip=600), Fault(flip=9)],
    "a login page": [Fault(body=b"<html>log in</html>")],
    "a login page instead of the rest": [Fault(cut=600), Fault(body=b"<html>", no_range=True)],
    "more than there is": [Fault(body=bytes(200_000), no_length=True)],
    "busy for too long": [Fault(status=503)] * 6,
    "cut at the same byte for too long": [Fault(cut=700), *[Fault(cut=0)] * 5],
    "a redirection to a file": [Fault(status=302, headers=(("Location", "file:///etc/passwd"),))],
    "a redirection to nowhere": [Fault(status=302)],
    "a redirection to no address": [Fault(status=302, headers=(("Location", "http://[1"),))],
    "content that should not be": [Fault(status=204)],
}
"""Faults that end a command."""
KINDS = {"voc": voc_like, "coco": coco_like}
INTERRUPTED = (0, 1, 4, 8, 11, 14)
"""Writes, of downloads and unpacking together, at which a disk is full or a command is killed."""


def of_both_kinds(faults, step=1):
    """Each fault with both kinds of datasets; fast tests try every `step`-th, with one kind in turn."""
    made = []
    for number, fault in enumerate(faults):
        for kind in KINDS:
            fast = number % step == 0 and kind == ("voc", "coco")[number // step % 2]
            made.append(pytest.param(kind, fault, marks=[] if fast else pytest.mark.slow))
    return made


@pytest.fixture(scope="module")
def web():
    with serving() as web:
        yield web


@pytest.fixture(autouse=True)
def _quick(web, monkeypatch):
    monkeypatch.setattr(fetch, "CHUNK", 1000)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    web.faults, web.always, web.asked = [], None, []


def run(source, folder, pauses=None):
    return prepare("some", source, folder, pause=[].append if pauses is None else pauses.append)


def assert_nothing_wrong(folder, whole):
    """Nothing is in place, or all of it."""
    found = tree_of(folder) if folder.exists() else {}
    assert found in ({}, whole)
    return found


def assert_goes_on(source, folder, whole):
    """The same command, undisturbed, leaves the right tree and nothing else."""
    assert run(source, folder)
    assert tree_of(folder) == whole
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_fifty_faults_and_more():
    fast = len(PASSING) + len(ENDING)
    assert fast + len(INTERRUPTED) >= 50
    assert len(of_both_kinds(PASSING)) == 2 * len(PASSING)


@pytest.mark.parametrize(("kind", "name"), of_both_kinds(PASSING))
def test_what_passes(web, tmp_path, kind, name):
    source, whole = KINDS[kind](web)
    web.faults = list(PASSING[name])
    assert_goes_on(source, tmp_path / "set", whole)
    assert not web.faults


@pytest.mark.parametrize(("kind", "name"), of_both_kinds(ENDING))
def test_what_ends_a_command(web, tmp_path, kind, name):
    source, whole = KINDS[kind](web)
    web.faults = list(ENDING[name])
    with pytest.raises((UserError, RunError), match=f"^{web.address}/[a-z0-9]+\\.(tar|zip): [^\n]+$") as caught:
        run(source, tmp_path / "set")
    assert not web.faults
    assert assert_nothing_wrong(tmp_path / "set", whole) == {}
    if caught.type is UserError:  # nothing had begun, so nothing is left
        assert not (tmp_path / "set").exists()
    else:
        assert str(caught.value).endswith("; what is downloaded stays, and the same command goes on")
    assert_goes_on(source, tmp_path / "set", whole)


@pytest.mark.parametrize("code", [301, *(pytest.param(code, marks=pytest.mark.slow) for code in MOVED[1:])])
def test_redirections_are_followed_with_the_range(web, tmp_path, code):
    source, whole = voc_like(web)
    there = Fault(status=code, headers=(("Location", f"{web.address}/trainval.tar"),))
    web.faults = [there, Fault(cut=600), there]
    assert_goes_on(source, tmp_path / "set", whole)
    assert web.asked[:4] == [("/trainval.tar", None)] * 2 + [("/trainval.tar", "bytes=600-")] * 2


def test_a_circle_of_redirections_ends(web, tmp_path):
    source, _ = voc_like(web)
    web.always = Fault(status=302, headers=(("Location", f"{web.address}/trainval.tar"),))
    with pytest.raises(UserError, match=r"trainval\.tar: the server answers 302 [^\n]+$"):
        run(source, tmp_path / "set")


class _Stops:
    """Writes until the n-th, which raises."""

    def __init__(self, at, error):
        self.left, self.error = at, error

    def __call__(self, file, chunk):
        if self.left == 0:
            self.left = -1
            file.write(chunk[: len(chunk) // 2])
            raise self.error
        self.left -= 1
        file.write(chunk)


@pytest.mark.parametrize(("kind", "at"), of_both_kinds(INTERRUPTED, 2))
def test_a_full_disk(web, tmp_path, monkeypatch, kind, at):
    source, whole = KINDS[kind](web)
    stops = _Stops(at, OSError(errno.ENOSPC, "No space left on device"))
    with monkeypatch.context() as patched:
        for module in (fetch, unpack):
            patched.setattr(module, "write_all", stops)
        with pytest.raises(RunError, match=r"^[^\n]+: cannot be written: No space left on device; what is downloaded"):
            run(source, tmp_path / "set")
    assert stops.left == -1
    assert assert_nothing_wrong(tmp_path / "set", whole) == {}
    left = [path.name for path in (tmp_path / "set" / ".prepare-some").iterdir()]
    assert not any(name.endswith(".unpacked") and f"{name.removesuffix('.unpacked')}.json" not in left for name in left)
    assert_goes_on(source, tmp_path / "set", whole)


class _Killed(BaseException):
    """Ends a command in the midst; nothing of ours catches it."""


@pytest.mark.parametrize(("kind", "at"), of_both_kinds(INTERRUPTED, 2))
def test_a_kill(web, tmp_path, monkeypatch, kind, at):
    source, whole = KINDS[kind](web)
    stops = _Stops(at, _Killed())
    with monkeypatch.context() as patched:
        for module in (fetch, unpack):
            patched.setattr(module, "write_all", stops)
        with pytest.raises(_Killed):
            run(source, tmp_path / "set")
    assert assert_nothing_wrong(tmp_path / "set", whole) == {}
    asked = len(web.asked)
    assert_goes_on(source, tmp_path / "set", whole)
    assert len(web.asked) - asked <= len(source.archives)


@pytest.mark.parametrize(("kind", "at"), of_both_kinds(range(9), 3))
def test_a_kill_while_files_are_moved(web, tmp_path, monkeypatch, kind, at):
    source, whole = KINDS[kind](web)
    path, left = type(tmp_path), [at]
    replace = path.replace

    def stopping(self, target):
        if left[0] == 0:
            raise _Killed
        left[0] -= 1
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(path, "replace", stopping)
        with pytest.raises(_Killed):
            run(source, tmp_path / "set")
    found = tree_of(tmp_path / "set")
    assert found.items() <= whole.items()
    assert found == whole or not any(name.startswith("annotations") for name in found)
    assert_goes_on(source, tmp_path / "set", whole)


def entry(name, kind, target=""):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


TOP = "VOCdevkit/VOC2007"
BAD_TARS = {
    "a link": (web_module.tar_of({}, entry(f"{TOP}/a", tarfile.SYMTYPE, "/etc/passwd")), "a link or a device"),
    "a hard link": (web_module.tar_of({}, entry(f"{TOP}/a", tarfile.LNKTYPE, "b")), "a link or a device"),
    "a device": (web_module.tar_of({}, entry(f"{TOP}/a", tarfile.FIFOTYPE)), "a link or a device"),
    "the root": (web_module.tar_of({"/etc/x": b"1"}), "not below VOCdevkit"),
    "a way out": (web_module.tar_of({"VOCdevkit/../../x": b"1"}), "not below VOCdevkit"),
    "another folder": (web_module.tar_of({"other/x": b"1"}), "not below VOCdevkit"),
    "the folder itself": (web_module.tar_of({"VOCdevkit": b"1"}), "not below VOCdevkit"),
    "a sign": (web_module.tar_of({f"{TOP}/a\x1b[2J": b"1"}), "not below VOCdevkit"),
    "a drive": (web_module.tar_of({f"{TOP}/c:\\x": b"1"}), "not below VOCdevkit"),
    "a file below a file": (web_module.tar_of({f"{TOP}/a": b"1", f"{TOP}/a/b": b"1"}), "twice"),
    "a file twice": (web_module.tar_of({f"{TOP}/a": b"1", f"./{TOP}/a": b"1"}), "twice"),
    "too much": (web_module.tar_of({f"{TOP}/a": bytes(400_000)}), "unpacks to more than"),
    "no end": (web_module.tar_of({f"{TOP}/a": bytes(9000)})[:3000], "damaged"),
    "no tar": (b"<html>" * 100, "damaged"),
}


def zip_entry(name, mode=0, flags=0):
    made = zipfile.ZipInfo(name)
    made.external_attr, made.flag_bits = mode << 16, flags
    return made


BAD_ZIPS = {
    "a link": (web_module.zip_of({}, (zip_entry("train2014/a", 0o120777), b"/etc/passwd")), "a link or a device"),
    "a way out": (web_module.zip_of({"../x": b"1"}), "not below the folder"),
    "the root": (web_module.zip_of({"/x": b"1"}), "not below the folder"),
    "too much": (web_module.zip_of({"train2014/a": bytes(400_000)}), "unpacks to more than"),
    "no end": (web_module.zip_of({"a": bytes(9000)})[:40], "damaged"),
}


def broken(raw):
    """The bytes of a stored `.zip` with one byte of its content altered."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("train2014/a", raw)
    return held.getvalue().replace(raw, raw[:-1] + b"?")


BAD_ZIPS["another content"] = (broken(b"what it said"), "damaged")


BAD = [*(f"tar: {name}" for name in BAD_TARS), *(f"zip: {name}" for name in BAD_ZIPS)]
SLOW = [name for name in BAD if "link" not in name and "way" not in name and "too much" not in name]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in BAD])
def test_archives_that_hold_what_they_should_not(web, tmp_path, name):
    ending, _, fault = name.partition(": ")
    content, told = (BAD_TARS if ending == "tar" else BAD_ZIPS)[fault]
    source, whole = KINDS["voc" if ending == "tar" else "coco"](web)
    bad = web_module.archive_of(web, f"bad.{ending}", content, 20_000)
    around = sorted(tmp_path.iterdir())
    with pytest.raises(
        RunError, match=f"bad\\.{ending}: [^\n]*({told})[^\n]*remove it, and run the same command again$"
    ):
        run(source._replace(archives=(*source.archives, bad)), tmp_path / "set")
    assert assert_nothing_wrong(tmp_path / "set", whole) == {}
    assert sorted(tmp_path.iterdir()) == [*around, tmp_path / "set"]
    assert not list(tmp_path.rglob("bad.*.unpacked"))
