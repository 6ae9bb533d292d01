"""Addresses of models on the hub, and what is said where one cannot be had."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from engine.core import hub
from engine.core.checkpoint import read_model, save_safetensors
from engine.core.hub import HubAddress, hub_library, hub_reason, is_repository, local_file
from tests.engine.checkpoints import checkpoint
from tests.engine.hub_server import TOKEN, commit_id, on_this_machine
from utils.checks import UserError


@pytest.fixture
def server(tmp_path, monkeypatch):
    with on_this_machine(tmp_path, monkeypatch) as found:
        yield found


@pytest.mark.parametrize(
    ("text", "repository", "revision"),
    [
        ("hf://me/model", "me/model", None),
        ("hf://me/model@v1", "me/model", "v1"),
        ("hf://me/model@refs/pr/1", "me/model", "refs/pr/1"),
        ("hf://A-1/b.c_d", "A-1/b.c_d", None),
    ],
)
def test_addresses(text, repository, revision):
    address = HubAddress.of(Path(text))
    assert address == HubAddress(repository, revision)
    assert str(address) == text


@pytest.mark.parametrize("text", ["best.pth", "/hf:/me/model", "runs/hf:/best.pth", "hf/me/model", "hf"])
def test_files_are_no_addresses(text):
    assert HubAddress.of(Path(text)) is None
    assert local_file(Path(text)) == Path(text)


@pytest.mark.parametrize("text", ["hf://", "hf://me", "hf://me/model/best.pth", "hf://me/../x", "hf://-me/model"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(UserError, match="name a model as hf://OWNER/NAME"):
        HubAddress.of(Path(text))


@pytest.mark.parametrize(
    ("name", "fits"), [("a/b", True), ("a", False), ("a/b/c", False), ("a/b\n", False), ("ä/b", False), ("a/", False)]
)
def test_names_of_repositories(name, fits):
    assert is_repository(name) == fits


def fill(server, tmp_path):
    """A model in a repository; its file here."""
    file = tmp_path / "own.safetensors"
    saved = read_model(checkpoint(tmp_path / "best.pth"))
    save_safetensors(file, saved, saved.classes, {})
    server.repositories["me/model"] = [{"model.safetensors": file.read_bytes()}]
    return file


def test_a_model_is_fetched_once_and_then_found_without_the_hub(server, tmp_path, capsys):
    file = fill(server, tmp_path)
    first = local_file(Path("hf://me/model"))
    assert first.read_bytes() == file.read_bytes()
    assert first.name == "model.safetensors"
    assert f"hf://me/model: commit {commit_id(0)[:12]}, {first}" in capsys.readouterr().out
    assert local_file(Path("hf://me/model")) == first
    assert sum(method == "GET" for method, _, _ in server.asked) == 1
    server.shutdown()
    server.server_close()
    assert local_file(Path(f"hf://me/model@{commit_id(0)}")) == first


def test_a_revision_is_that_one(server, tmp_path):
    file = fill(server, tmp_path)
    server.repositories["me/model"].append({"model.safetensors": b"newer"})
    assert local_file(Path("hf://me/model")).read_bytes() == b"newer"
    assert local_file(Path(f"hf://me/model@{commit_id(0)}")).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("hf://me/other", r"^hf://me/other: there is none, or it is private and HF_TOKEN has no access$"),
        ("hf://me/model@v9", r"^hf://me/model@v9: there is no such revision$"),
        (
            "hf://me/empty",
            r"^hf://me/empty: has no model.safetensors, so it is no model that evaluate.py --push_to made$",
        ),
        ("hf://me/a--b", r"^hf://me/a--b: no name that a repository may have$"),
    ],
)
def test_what_cannot_be_had_is_one_line(server, tmp_path, address, said):
    fill(server, tmp_path)
    server.repositories["me/empty"] = [{"README.md": b"#"}]
    with pytest.raises(UserError, match=said) as refused:
        local_file(Path(address))
    assert refused.value.__cause__ is None
    assert TOKEN not in str(refused.value)


def test_a_hub_that_cannot_be_reached_is_named(server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # the library tries for half a minute
    with pytest.raises(UserError, match="hf://me/model: the hub cannot be reached, and it is not in the cache"):
        local_file(Path("hf://me/model"))


def test_without_the_library_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="--push_to a/b: huggingface_hub is not installed; pip install huggingface_hub"):
        hub_library("--push_to a/b")


def test_the_usual_hub_unless_another_is_named(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "")
    assert hub.endpoint() is None
    monkeypatch.setenv("HF_ENDPOINT", "http://there")
    assert hub.endpoint() == "http://there"


class AnsweredError(Exception):
    def __init__(self, status):
        super().__init__(f"Bearer {TOKEN}")
        self.response = type("Response", (), {"status_code": status})


class GatedRepoError(AnsweredError):
    pass


class OfGatedError(GatedRepoError):
    pass


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AnsweredError(401), "no access; set HF_TOKEN to a token that has it"),
        (AnsweredError(403), "no access with this token"),
        (AnsweredError(404), "not found"),
        (AnsweredError(507), "the hub answers 507"),
        (OfGatedError(403), "its owner has not admitted you; ask on its page"),
        (ConnectionError(TOKEN), "the hub cannot be reached (ConnectionError)"),
        (OSError(5, TOKEN), "the hub cannot be reached (OSError)"),
    ],
)
def test_reasons_are_words_of_ours(error, said):
    assert hub_reason(error) == said


def test_a_full_disk_is_told_as_everywhere(server, tmp_path, monkeypatch):
    fill(server, tmp_path)
    full = OSError(28, "No space left on device", "/cache/file")
    with pytest.raises(OSError, match="No space left") as raised:
        hub_reason(full)
    assert raised.value is full


def test_a_fetch_that_breaks_off_leaves_no_file(server, tmp_path, monkeypatch):
    fill(server, tmp_path)
    server.refused = {"resolve/main": 403}
    with pytest.raises(UserError, match="hf://me/model: "):
        local_file(Path("hf://me/model"))
    server.refused = {}
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)
    assert read_model(local_file(Path("hf://me/model"))).num_classes == 5
