"""Files of runs that were damaged in ways that once ended in a traceback: each is told in one line.

`tests/fixtures/damaged_runs.tar.xz` holds them; a name begins with what read the file and how that had ended. Of states
there is the pickle alone; the tensors that it names are made of zeros.
"""

import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from data.files.cache import Cache
from engine.core.run_folder import RunFolder
from engine.core.settings_files import read_yaml
from engine.training.recorder import LABELS_FILE
from tests.commands.scene import SMALL, refusal, result, run, succeed, tiny_voc
from tests.engine.run_folders import log_folder
from utils.checks import UserError

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "damaged_runs.tar.xz"
with tarfile.open(ARCHIVE) as archive:
    FILES = {Path(one.name).name: archive.extractfile(one).read() for one in archive if one.isfile()}
HISTORY = [{"epoch": 1, "loss": 1.0}]


def named(*starts):
    """A parameter for each of the files whose names begin so."""
    found = [name for name in FILES if name.startswith(starts)]
    assert found
    return pytest.mark.parametrize("name", found)


def test_every_file_is_in_a_test():
    known = ("compare-", "summary-", "yaml-", "state", "cache-", "labels_npz-")
    assert [name for name in FILES if not name.startswith(known)] == []
    assert len(FILES) == 31


@named("compare-", "summary-")
def test_a_damaged_result_is_one_line(tmp_path, name):
    folder = log_folder(tmp_path / "run", "bce", HISTORY, ("--dataset", "voc07"))
    (folder / "result.json").write_bytes(FILES[name])
    told = [refused(lambda: RunFolder(folder).summary()), run(tmp_path, "compare.py", "run").stderr]
    assert all(words.count("\n") <= 1 and ("result.json" in words or not words) for words in told)
    assert any(told) or "KeyError" in name, "a part that is missing may not be needed; others may not be what they are"


def refused(action):
    """The one line of a refusal; empty where there is none."""
    try:
        action()
    except UserError as error:
        return f"{error}\n"
    return ""


@named("yaml-")
def test_a_deep_settings_file_is_one_line(tmp_path, name):
    (tmp_path / "s.yaml").write_bytes(FILES[name])
    with pytest.raises(UserError, match=r"s\.yaml: not a readable YAML file \(nested more than 20 deep\)"):
        read_yaml(tmp_path / "s.yaml")
    assert "s.yaml" in refusal(tmp_path, "main_BCE.py", "--config", "s.yaml")


@named("cache-")
def test_a_damaged_entry_of_a_cache_is_absent(tmp_path, name):
    cache = Cache(tmp_path)
    cache.path("kind", "f").write_bytes(FILES[name])
    with zipfile.ZipFile(io.BytesIO(FILES[name])) as archive:
        names = [each.removesuffix(".npy") for each in archive.namelist()]
    assert cache.load("kind", "f", names) is None


@named("labels_npz-")
def test_damaged_records_of_labels_are_one_line(tmp_path, name):
    words = ("--dataset", "voc07", "--labels", "single")
    folder = log_folder(tmp_path / "run", "large_loss", HISTORY, words, {"first_modified": np.zeros((2, 2))})
    (folder / LABELS_FILE).write_bytes(FILES[name])
    assert LABELS_FILE in refusal(tmp_path, "analyse.py", "modified", "run")


SIZES = {"Float": 4, "Double": 8, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1}


class Storages(pickle.Unpickler):
    """Reads the pickle of a state for the storages that it names: bytes of each by key."""

    def find_class(self, module, name):
        if name.endswith("Storage"):
            return name.removesuffix("Storage")
        return OrderedDict if name in ("OrderedDict", "Counter") else lambda *args: None

    def persistent_load(self, named):
        _, kind, key, _, number = named[:5]
        self.found[key] = number * SIZES[kind]


def state_file(content):
    """A file of `torch.save` with this pickle, over zeros."""
    reader = Storages(io.BytesIO(content))
    reader.found = {}
    reader.load()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for key, size in reader.found.items():
            archive.writestr(f"archive/data/{key}", bytes(size))
    return file.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    tiny_voc(folder)
    succeed(folder, "main_BCE.py", *TRAIN)
    labels = result(folder / "out")["label_hash"].encode()
    (folder / "out" / "result.json").unlink()
    return folder, labels


TRAIN = ("--dataset", "voc07", *SMALL, "--epochs", "1", "--warmup_epoch", "0", "--output", "out")


@named("state")
def test_a_damaged_state_is_one_line(trained, name):
    folder, labels = trained
    content = FILES[name].replace(b"636e125b32d6304ed891aebaccf31fc4c27c6f2da484b18edde0a7dcd69dd7af", labels)
    (folder / "out" / "last" / "state.pth").write_bytes(state_file(content))
    assert "state.pth" in refusal(folder, "main_BCE.py", *TRAIN, "--resume")
    assert not (folder / "out" / ".lock").exists()


@pytest.mark.parametrize("file", ["settings.yaml", "last/state.pth", "result.json", "log.jsonl", "metrics.csv"])
def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path, file):
    """Whatever it is that lies there, the run reads it, goes round it, or says one line."""
    path = tmp_path / "run" / file
    tiny_voc(tmp_path)
    path.mkdir(parents=True)
    (path / "x").touch()
    done = run(tmp_path, "main_BCE.py", *TRAIN[:-1], "run", "--resume")
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
