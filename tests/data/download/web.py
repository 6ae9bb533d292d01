"""A web server in a thread that serves archives with faults, and tiny datasets to serve."""

import hashlib
import io
import random
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from data.download.sources import Archive, Source


class Fault(NamedTuple):
    """How one request is answered otherwise than it should."""

    cut: int | None = None  # bytes that are sent before the connection is closed
    no_range: bool = False  # ranges are ignored
    status: int = 0  # sent instead of content
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None  # sent instead of the content
    no_length: bool = False
    flip: int | None = None  # the byte that is altered
    content_range: str = ""  # instead of the right one
    silent: bool = False  # closes without a word


class Web:
    """Files by path; `faults` are used up one per request, `always` stays."""

    def __init__(self):
        self.files, self.faults, self.always, self.asked = {}, [], None, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def fault(self):
        return self.faults.pop(0) if self.faults else self.always or Fault()

    def _handler(self):
        web = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *words):
                pass

            def do_GET(self):
                web.asked.append((self.path, self.headers.get("Range")))
                answer(self, web.files.get(self.path.lstrip("/")), web.fault())

        return Handler


def answer(handler, content, fault):
    """Send a file, or what a fault sends in its place."""
    if fault.silent:
        return
    if fault.status or content is None:
        handler.send_response(fault.status or 404)
        for name, value in fault.headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    asked, total = handler.headers.get("Range"), len(content)
    if fault.flip is not None:
        content = content[: fault.flip] + bytes([content[fault.flip] ^ 1]) + content[fault.flip + 1 :]
    body = content if fault.body is None else fault.body
    if asked and not fault.no_range:
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        handler.send_response(206)
        handler.send_header("Content-Range", fault.content_range or f"bytes {start}-{total - 1}/{total}")
        body = body[start:]
    else:
        handler.send_response(200)
    if not fault.no_length:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body if fault.cut is None else body[: fault.cut])


@contextmanager
def serving():
    web = Web()
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.server.shutdown()
        web.server.server_close()
        thread.join()


def some_bytes(seed, count):
    return random.Random(seed).randbytes(count)


def tar_of(files, *more):
    """A `.tar` of files by name, and of further entries."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for entry in more:
            archive.addfile(entry)
    return held.getvalue()


def zip_of(files, *more):
    """A `.zip` of files by name, and of further entries with their content."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (*files.items(), *more):
            archive.writestr(name, content)
    return held.getvalue()


def archive_of(web, name, content, unpacked=None):
    """An archive that the server has."""
    web.files[name] = content
    md5 = hashlib.md5(content).hexdigest()
    return Archive(f"{web.address}/{name}", len(content), md5, unpacked or 2 * len(content))


def voc_files():
    """The trees of both archives of a dataset like VOC 2007, without `VOCdevkit`."""
    trees = []
    for ids, split in ((range(2), "trainval"), (range(2, 3), "test")):
        tree = {f"VOC2007/JPEGImages/{number:06}.jpg": some_bytes(number, 1900) for number in ids}
        tree |= {f"VOC2007/Annotations/{number:06}.xml": some_bytes(-number, 90) for number in ids}
        trees.append({**tree, f"VOC2007/ImageSets/Main/{split}.txt": "\n".join(map(str, ids)).encode()})
    return trees


def voc_like(web):
    """A dataset of two `.tar` archives that fill the same folders, and its tree."""
    trees = voc_files()
    archives = [
        archive_of(web, name, tar_of({f"VOCdevkit/{path}": content for path, content in tree.items()}))
        for name, tree in zip(("trainval.tar", "test.tar"), trees, strict=True)
    ]
    parts = {"VOC2007/JPEGImages": 3, "VOC2007/Annotations": 3, "VOC2007/ImageSets/Main/test.txt": 1}
    return Source(tuple(archives), parts, "terms: none", inside="VOCdevkit"), {**trees[0], **trees[1]}


def coco_like(web):
    """A dataset of three `.zip` archives, and its tree."""
    trees = {
        "annotations.zip": {
            f"annotations/{kind}_{split}2014.json": some_bytes(f"{kind}{split}", 700)
            for kind in ("instances", "captions")
            for split in ("train", "val")
        },
        **{
            f"{split}2014.zip": {f"{split}2014/{n}.jpg": some_bytes(f"{split}{n}", 1900) for n in range(count)}
            for split, count in (("val", 1), ("train", 2))
        },
    }
    archives = tuple(archive_of(web, name, zip_of(tree)) for name, tree in trees.items())
    parts = {f"annotations/instances_{split}2014.json": 1 for split in ("train", "val")}
    source = Source(archives, {**parts, "train2014": 2, "val2014": 1}, "terms: none", elsewhere="images")
    return source, {path: content for tree in trees.values() for path, content in tree.items()}


def tree_of(folder):
    """Path -> content of all files below a folder that are not hidden."""
    files = (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if not path.relative_to(folder).parts[0].startswith(".")
    }
