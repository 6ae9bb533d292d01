"""One file by HTTP: goes on where it stopped, tries again what may pass, and checks what came."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, Protocol

from data.download.sources import Archive
from utils.checks import RunError
from utils.console import Progress

TRIES = 6
"""Tries in a row that bring no further byte before a download is given up."""
TIMEOUT = 60.0
"""Seconds that a server may be silent."""
LONGEST_PAUSE = 60.0
"""Seconds between two tries at most, whatever a server asks for."""
CHUNK = 1 << 20
"""Bytes that are read at a time."""

_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers of a server that is busy or out of order for now."""
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_OFFLINE = (
    "a network is needed, or its proxy in the variables http_proxy and https_proxy; --print prints the commands for "
    "a machine that has one"
)

Pause = Callable[[float], None]


class FetchError(Exception):
    """A file that cannot be had: one line that says what, where and what to do."""


class _Passing(Exception):  # noqa: N818 - it ends one try only
    """What may pass: another try may help, after as many seconds as the server asks for."""

    def __init__(self, reason: str, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.seconds = seconds


class _Unreachable(_Passing):
    """No connection at all."""


class _WrongRange(_Passing):
    """A server that cannot go on where the file stops; it is asked for all of it then."""


class _Response(Protocol):
    """What is used of an answer."""

    status: int
    headers: http.client.HTTPMessage

    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


def held(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def md5_of(path: Path) -> str:
    """MD5 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def write_all(file: BinaryIO, chunk: bytes) -> None:
    """Write bytes to a file; the one place where content is written, so that tests can fill the disk."""
    file.write(chunk)


def cannot_write(path: Path | str, error: OSError) -> RunError:
    """The error of a file or folder that the system refuses to write."""
    return RunError(
        f"{path}: cannot be written: {error.strerror or error}; what is downloaded stays, and the same command goes on"
    )


def obtain(archive: Archive, path: Path, pause: Pause = time.sleep) -> None:
    """Download the rest of a file, and check it; a wrong one is downloaded once more from its start.

    Args:
        archive: the file.
        path: where it is put; bytes that are there already are its beginning.
        pause: waits for a number of seconds.

    Raises:
        FetchError: the file cannot be had, or twice was another one; a wrong file is removed.
        RunError: the disk is full, or cannot be written.
    """
    found = ""
    for _ in range(2):
        fetch(archive, path, pause)
        found = md5_of(path)
        if found == archive.md5:
            return
        path.unlink()
    raise FetchError(
        f"{archive.address}: what comes has the MD5 {found}, not {archive.md5}, so it is not the published file; try "
        "another network, or look at the dataset's own page"
    )


def fetch(archive: Archive, path: Path, pause: Pause = time.sleep) -> None:
    """The same without the check of the content: `path` has the right number of bytes. Raises: FetchError, RunError."""
    if held(path) > archive.size:
        path.unlink()
    answered, best, failures = False, held(path), 0
    while held(path) < archive.size:
        try:
            _try_once(archive, path)
        except _Passing as error:
            answered = answered or not isinstance(error, _Unreachable)
            if not answered:
                raise FetchError(f"{archive.address}: {error}; {_OFFLINE}") from error
            failures = 1 if held(path) > best else failures + 1
            best = max(best, held(path))
            if failures == TRIES:
                raise FetchError(f"{archive.address}: {error}, {TRIES} times in a row; try again later") from error
            pause(min(max(2.0 ** (failures - 1), error.seconds), LONGEST_PAUSE))


def _try_once(archive: Archive, path: Path) -> None:
    """One request for what is missing. Raises: _Passing, FetchError, RunError."""
    start = held(path)
    try:
        with closing(_answer(archive, start)) as response:
            skip = start - _first_byte(archive, response, start)
            _append(archive, path, _chunks(response, skip))
    except _WrongRange:
        path.unlink()
        raise
    if held(path) < archive.size:
        raise _Passing(f"the connection was cut at byte {held(path)} of {archive.size}")


def _answer(archive: Archive, start: int) -> _Response:
    """The answer to a request for an archive from a byte on. Raises: _Passing, FetchError."""
    headers = {"User-Agent": "partial-truth", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(archive.address, headers=headers)
    try:
        answer: _Response = urllib.request.build_opener().open(request, timeout=TIMEOUT)
        return answer
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(archive, error, start) from None
    except urllib.error.URLError as error:
        reason = error.reason
        text = (reason.strerror or str(reason)) if isinstance(reason, OSError) else str(reason)
        raise _Unreachable(f"cannot be reached ({text})") from error
    except (ValueError, http.client.InvalidURL) as error:
        raise FetchError(f"{archive.address}: leads to what is no address ({error})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Passing(f"gives no answer ({str(error) or type(error).__name__})") from error


def _refusal(archive: Archive, error: urllib.error.HTTPError, start: int) -> _Passing | FetchError:
    """What an answer that is an error means for a request from a byte on."""
    text = f"the server answers {error.code} {str(error.reason).split(chr(10))[0]}".rstrip()
    if error.code in _PASSING:
        asked = error.headers.get("Retry-After", "")
        return _Passing(text, float(asked) if asked.isdecimal() else 0.0)
    if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
        return _WrongRange(text)
    return FetchError(f"{archive.address}: {text}; the dataset's own page says where it is now, if it has moved")


def _first_byte(archive: Archive, response: _Response, start: int) -> int:
    """The byte from which on a server sends. Raises: _WrongRange, FetchError."""
    if response.status == HTTPStatus.PARTIAL_CONTENT and start:
        text = response.headers.get("Content-Range", "")
        found = _RANGE.fullmatch(text)
        if found is None or int(found[1]) != start or found[2] not in ("*", str(archive.size)):
            raise _WrongRange(f"the server sends another part than it was asked for (Content-Range {text[:60]!r})")
        return start
    offered = response.headers.get("Content-Length") or str(archive.size)
    if response.status != HTTPStatus.OK or offered != str(archive.size):
        raise FetchError(
            f"{archive.address}: {offered[:20]} bytes are offered, not the {archive.size} of {archive.name}: the login "
            "page of a network, or another file; open the address in a browser"
        )
    return 0


def _chunks(response: _Response, skip: int) -> Iterator[bytes]:
    """What a server sends, without the first `skip` bytes. Raises: _Passing where the connection breaks."""
    while True:
        try:
            chunk = response.read(min(skip, CHUNK) or CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Passing(f"the connection broke ({str(error) or type(error).__name__})") from error
        if not chunk:
            return
        if skip:
            skip -= len(chunk)
        else:
            yield chunk


def _append(archive: Archive, path: Path, chunks: Iterator[bytes]) -> None:
    """Add bytes to a file. Raises: _Passing, FetchError for more than there are in the archive, RunError."""
    size = held(path)
    total, done = archive.size >> 20, size >> 20
    progress = Progress(chunks, total=total, done=done, label=archive.name, unit="MiB", shown=True)
    try:
        with path.open("ab") as file:
            for chunk in progress:
                size += len(chunk)
                if size > archive.size:
                    break
                write_all(file, chunk)
                progress.advance((size >> 20) - done)
                done = size >> 20
    except OSError as error:
        raise cannot_write(path, error) from error
    if size > archive.size:
        path.unlink()
        raise FetchError(f"{archive.address}: sends more than the {archive.size} bytes of {archive.name}; another file")
