"""Feature maps in files: what is in them, that they are whole or absent, and what is said."""

import errno
import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.files.cache import Cache
from engine.training import feature_maps
from engine.training.feature_maps import MapStore
from engine.training.features import FeatureView
from tests.engine.training.test_features import array_data, feed, frozen, network
from utils.checks import RunError, UserError


def expected_maps(data, model):
    loader = feed(data).scoring("train")
    with torch.no_grad():
        return torch.cat([model.eval()(loader.to_batch(raw, torch.device("cpu")).images).features for raw in loader])


@pytest.mark.parametrize("half, dtype, rtol", [(False, "float32", 1e-5), (True, "float16", 1e-3)])
def test_maps_are_those_of_the_backbone_kept_in_the_size_that_was_said(tmp_path, capsys, half, dtype, rtol):
    data, model = array_data(), network()
    found = frozen(data, tmp_path, model, maps=True, half=half).of(FeatureView("train"))
    assert isinstance(found, np.memmap)
    assert (found.shape, found.dtype) == ((10, 96, 2, 2), dtype)
    np.testing.assert_allclose(found, expected_maps(data, model), rtol=rtol, atol=1e-3)
    (file,) = tmp_path.iterdir()
    size = 10 * 96 * 4 * np.dtype(dtype).itemsize
    assert size <= file.stat().st_size < size + 200
    said = f"features of train: 10 x 96 x 2 x 2 {dtype} take 0.00 GB in {tmp_path}"
    assert re.fullmatch(rf"{re.escape(said)} \(\d+\.\d\d GB free\)\n", capsys.readouterr().out)


def test_kept_maps_are_not_computed_again_and_damaged_ones_are(tmp_path, monkeypatch, capsys):
    data = array_data()
    monkeypatch.setattr(feature_maps.atexit, "register", lambda *_, **__: pytest.fail("removed at the end"))
    first = np.array(frozen(data, tmp_path, maps=True).of(FeatureView("train")))
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(feature_maps, "computed_batches", lambda *_: pytest.fail("computed again"))
        again = frozen(data, tmp_path, maps=True).of(FeatureView("train"))
    np.testing.assert_array_equal(again, first)
    assert capsys.readouterr().out == ""
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    for damaged in (b"", content[:-1], content[:300], b"x" * 500):
        file.unlink()
        file.write_bytes(damaged)
        np.testing.assert_array_equal(frozen(data, tmp_path, maps=True).of(FeatureView("train")), first)
        assert file.read_bytes() == content


def test_what_cannot_be_known_again_is_kept_for_the_run_only(tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr(feature_maps.atexit, "register", lambda what, **named: left.append((what, named)))
    store = frozen(array_data(), tmp_path, maps=True)
    maps = MapStore(store.model, store.shape, "float32", Cache(tmp_path), feed(array_data()).runtime)
    loader = feed(array_data()).scoring("train")
    first, second = (maps.maps(loader, 10, None, "these") for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(list(tmp_path.iterdir())) == 2
    for remove, named in left:
        remove(**named)
        remove(**named)  # somebody else may have removed it
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_machine_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Cache, "array", lambda *_: None)
    with pytest.raises(UserError, match=rf"^features of train: {tmp_path} is not the same folder for all processes$"):
        frozen(array_data(), tmp_path, maps=True).of(FeatureView("train"))


def test_nothing_is_left_of_maps_that_could_not_be_computed(tmp_path):
    model = network()
    torch.nn.init.constant_(model.backbone.conv1.weight, float("nan"))
    with pytest.raises(RunError, match="features of train"):
        frozen(array_data(), tmp_path, model, maps=True).of(FeatureView("train"))
    assert list(tmp_path.iterdir()) == []


def test_numbers_beyond_half_precision_are_seen(tmp_path):
    model = network()
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.bias, 1e5)
    frozen(array_data(), tmp_path, model, maps=True).of(FeatureView("train"))
    with pytest.raises(RunError, match="features of train"):
        frozen(array_data(), tmp_path, model, maps=True, half=True).of(FeatureView("train"))


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch, capsys):
    free = 10 * 96 * 4 * 4
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(UserError, match=r"^features of train: 10 x 96 x 2 x 2 float32 take .* are free; name a larger"):
        frozen(array_data(), tmp_path, maps=True).of(FeatureView("train"))
    assert (list(tmp_path.iterdir()), capsys.readouterr().out) == ([], "")
    free += 1
    frozen(array_data(), tmp_path, maps=True).of(FeatureView("train"))


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"^--cache_dir .*/cache: cannot be used \((File exists|Not a directory)\); "):
        frozen(array_data(), tmp_path / "cache", maps=True).of(FeatureView("train"))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve room")
def test_a_disk_that_fills_up_in_between_is_told_and_nothing_is_left(tmp_path, monkeypatch):
    def full(file, start, length):
        assert (start, length) == (0, 10 * 96 * 4 * 4 + 128)  # the header of an array
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_maps.os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"^--cache_dir .*: cannot be used \(No space left on device\); name another"):
        frozen(array_data(), tmp_path, maps=True).of(FeatureView("train"))
    assert list(tmp_path.iterdir()) == []
