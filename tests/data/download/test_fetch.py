import hashlib
import socket

import pytest

from data.download import fetch as module
from data.download.fetch import FetchError, cannot_write, fetch, held, md5_of, obtain
from tests.data.download.web import Fault, archive_of, serving, some_bytes

CONTENT = some_bytes(3, 5000)


@pytest.fixture(scope="module")
def web():
    with serving() as web:
        yield web


@pytest.fixture
def archive(web, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 512)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    web.faults, web.always, web.asked = [], None, []
    return archive_of(web, "some.tar", CONTENT)


def ranges(web):
    return [asked for _, asked in web.asked]


def test_a_file_comes_in_one_request(web, archive, tmp_path):
    fetch(archive, tmp_path / "part", pause=None)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert ranges(web) == [None]


def test_only_what_is_missing_is_asked_for(web, archive, tmp_path):
    (tmp_path / "part").write_bytes(CONTENT[:4000])
    fetch(archive, tmp_path / "part", pause=None)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert ranges(web) == ["bytes=4000-"]


def test_a_whole_file_is_not_asked_for(web, archive, tmp_path):
    (tmp_path / "part").write_bytes(CONTENT)
    obtain(archive, tmp_path / "part", pause=None)
    assert web.asked == []


def test_a_file_that_is_too_long_is_fetched_anew(web, archive, tmp_path):
    (tmp_path / "part").write_bytes(CONTENT + b"x")
    fetch(archive, tmp_path / "part", pause=None)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert ranges(web) == [None]


def test_where_ranges_are_ignored_nothing_is_lost(web, archive, tmp_path):
    (tmp_path / "part").write_bytes(b"y" + CONTENT[1:4000])
    web.faults = [Fault(no_range=True, cut=2000), Fault(no_range=True)]
    fetch(archive, tmp_path / "part", pause=[].append)
    assert (tmp_path / "part").read_bytes() == b"y" + CONTENT[1:]  # what was there stays, and `obtain` compares


def test_a_wrong_range_is_followed_by_a_request_for_all(web, archive, tmp_path):
    (tmp_path / "part").write_bytes(CONTENT[:4000])
    web.faults = [Fault(content_range="bytes 3999-4999/5000")]
    fetch(archive, tmp_path / "part", pause=[].append)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert ranges(web) == ["bytes=4000-", None]


def test_a_range_may_leave_the_size_open(web, archive, tmp_path):
    (tmp_path / "part").write_bytes(CONTENT[:4000])
    web.faults = [Fault(content_range="bytes 4000-4999/*")]
    fetch(archive, tmp_path / "part", pause=None)
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_pauses_double_and_begin_again_with_each_new_byte(web, archive, tmp_path):
    web.faults = [Fault(cut=0), Fault(cut=0), Fault(cut=1), Fault(cut=0), Fault(cut=0), Fault(cut=0), Fault(cut=0)]
    pauses = []
    fetch(archive, tmp_path / "part", pauses.append)
    assert pauses == [1, 2, 1, 2, 4, 8, 16]
    assert (tmp_path / "part").read_bytes() == CONTENT


@pytest.mark.parametrize(("asked", "pause"), [("7", 7), ("0", 1), ("60", 60), ("3600", 60), ("soon", 1), ("-5", 1)])
def test_a_server_may_ask_for_a_pause(web, archive, tmp_path, asked, pause):
    web.faults = [Fault(status=503, headers=(("Retry-After", asked),))]
    pauses = []
    fetch(archive, tmp_path / "part", pauses.append)
    assert pauses == [pause]


def test_after_six_tries_without_a_byte_it_ends(web, archive, tmp_path):
    web.always = Fault(status=503)
    pauses = []
    told = rf"^{archive.address}: the server answers 503 Service Unavailable, 6 times in a row; try again later$"
    with pytest.raises(FetchError, match=told):
        fetch(archive, tmp_path / "part", pauses.append)
    assert (len(web.asked), pauses) == (6, [1, 2, 4, 8, 16])


def test_a_moved_file(web, archive, tmp_path):
    web.always = Fault(status=404)
    told = r"some\.tar: the server answers 404 Not Found; the dataset's own page says where it is now, if it has moved$"
    with pytest.raises(FetchError, match=told):
        fetch(archive, tmp_path / "part", pause=None)
    assert not (tmp_path / "part").exists()


def test_another_length(web, archive, tmp_path):
    web.always = Fault(body=b"<html>")
    told = r"some\.tar: 6 bytes are offered, not the 5000 of some\.tar: the login page of a network, or another file;"
    with pytest.raises(FetchError, match=told):
        fetch(archive, tmp_path / "part", pause=None)


def test_a_wrong_content_is_named_by_both_sums(web, archive, tmp_path):
    web.always = Fault(flip=8)
    wrong = hashlib.md5(CONTENT[:8] + bytes([CONTENT[8] ^ 1]) + CONTENT[9:]).hexdigest()
    with pytest.raises(FetchError, match=f"what comes has the MD5 {wrong}, not {archive.md5}, so it is not the"):
        obtain(archive, tmp_path / "part", pause=None)
    assert len(web.asked) == 2
    assert not (tmp_path / "part").exists()


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_without_a_network_it_ends_at_once(archive, tmp_path):
    away = archive._replace(address=f"http://127.0.0.1:{closed_port()}/some.tar")
    told = (
        rf"^{away.address}: cannot be reached \(Connection refused\); a network is needed, or its proxy in the "
        "variables http_proxy and https_proxy; --print prints the commands for a machine that has one$"
    )
    with pytest.raises(FetchError, match=told):
        fetch(away, tmp_path / "part", pause=None)
    assert not (tmp_path / "part").exists()


def test_a_proxy_that_is_not_there(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(
        FetchError, match=r"cannot be reached \(Connection refused\); a network is needed, or its proxy"
    ):
        fetch(archive, tmp_path / "part", pause=None)


def test_a_proxy_is_asked(web, archive, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", web.address)
    far = archive._replace(address="http://images.invalid/some.tar")
    web.files["http://images.invalid/some.tar"] = CONTENT
    fetch(far, tmp_path / "part", pause=None)
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_network_that_goes_away_is_waited_for(web, archive, tmp_path, monkeypatch):
    """After the first answer a connection that is refused may pass."""
    answers, real = [], module._answer

    def answered(*words):
        answers.append(words)
        if len(answers) == 2:
            raise module._Unreachable("cannot be reached (Network is unreachable)")
        return real(*words)

    monkeypatch.setattr(module, "_answer", answered)
    web.faults = [Fault(cut=100)]
    fetch(archive, tmp_path / "part", [].append)
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_server_that_falls_silent(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.05)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        away = archive._replace(address=f"http://127.0.0.1:{deaf.getsockname()[1]}/some.tar")
        with pytest.raises(FetchError, match=r"gives no answer \(timed out\), 6 times in a row; try again later"):
            fetch(away, tmp_path / "part", [].append)


def test_small_parts(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (held(tmp_path / "a"), held(tmp_path / "b")) == (3, 0)
    assert md5_of(tmp_path / "a") == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321
    assert str(cannot_write("x", OSError(28, "full"))).startswith(
        "x: cannot be written: full; what is downloaded stays"
    )
