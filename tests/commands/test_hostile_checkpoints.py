"""Hostile and damaged checkpoints: evaluate.py ends with code 2 and one line, and no code of theirs runs."""

import argparse
import builtins
import functools
import io
import json
import math
import os
import pickle
import shutil
import struct
import subprocess
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch

from engine.core.checkpoint import FORMAT
from models.build import Architecture, build_model
from tests.commands.scene import refusal
from tests.models.released import released_files

NOT = "not a readable file of tensors"
NAMES = [f"class {n}" for n in range(20)]


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Sets:
    """Pickles as an object that is given a state afterwards."""

    def __init__(self, function, arguments, state):
        self.parts = function, arguments, state

    def __reduce__(self):
        return self.parts


def saved(content, **how):
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


@functools.cache
def names_and_shapes():
    with torch.device("meta"):
        return {key: (tuple(value.shape), value.dtype) for key, value in released_files.fc_all().state.items()}


def state():
    """A released file's weights, of which the floats share one memory, so that the file is small."""
    shared = torch.zeros(max(math.prod(shape) for shape, _ in names_and_shapes().values()))
    return {
        key: shared[: math.prod(shape)].view(shape) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)
        for key, (shape, dtype) in names_and_shapes().items()
    }


def ours(**changes):
    """A model file of ours, changed."""
    model = build_model(Architecture.of(model="scenenet", weights="none"), 20, seed=0).state_dict()
    settings = {"model": "scenenet", "weights": "none", "dataset": "voc07", "img_size": 32}
    content = {"format": FORMAT, "model": model, "classes": NAMES, "settings": settings, "epoch": 1, "peers": False}
    return content | changes


def rezipped(data, change):
    """The zip file with its records changed; `change` takes and returns a dictionary of names and bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in change(records).items():
            archive.writestr(name, content)
    return stream.getvalue()


def cut(data, share):
    return data[: int(share * len(data))]


def without(records, end):
    return {name: content for name, content in records.items() if not name.endswith(end)}


def swapped(records, end, content):
    return {name: content if name.endswith(end) else held for name, held in records.items()}


def compressed(data):
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return stream.getvalue()


def scripted():
    class Twice(torch.nn.Module):
        def forward(self, x):
            return x + x

    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(Twice(), torch.ones(1)), stream)
    return stream.getvalue()


def with_first(value):
    """A released file whose first convolution is `value`."""
    return state() | {"conv1.weight": value}


def poisoned(number):
    weight = torch.zeros(64, 3, 7, 7)
    weight[5, 1, 2, 3] = number
    return with_first(weight)


def safetensors_of(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def own_safetensors(**changes):
    content = ours()
    said = {name: json.dumps(content[name]) for name in ("classes", "settings", "epoch", "peers")}
    return safetensors.torch.save(dict(content["model"]), {"format": FORMAT, **said, **changes})


def running(marker):
    """Name -> how to make a file that would touch `marker` if anything of it ran, and the name its refusal has."""
    script = f"open({str(marker)!r}, 'w').close()"
    system = f"{os.system.__module__}.system"
    nested = [1, {"deep": (OrderedDict(x=Calls(eval, script)),)}]
    objects = np.array([1, Calls(exec, script)], dtype=object)
    reach = Calls(getattr, Calls(getattr, Calls(__import__, "os"), "system"), "__call__")
    calls = {
        "os.system in a tensor's place": (lambda: state() | {"x": Calls(os.system, f"touch {marker}")}, system),
        "os.system beside the weights": (lambda: (state(), Calls(os.system, f"touch {marker}")), system),
        "eval": (lambda: {"state_dict": state(), "meta": Calls(eval, script)}, "eval"),
        "exec": (lambda: ours(settings=Calls(exec, script)), "exec"),
        "subprocess": (lambda: Calls(subprocess.check_output, ["touch", str(marker)]), "subprocess.check_output"),
        "open": (lambda: Calls(open, str(marker), "w"), "open"),
        "shutil": (lambda: Calls(shutil.copyfile, __file__, str(marker)), "shutil.copyfile"),
        "getattr chain": (lambda: [reach], "getattr"),
        "attribute of builtins": (lambda: Calls(vars(builtins)["eval"], script), "eval"),
        "nested reduce": (lambda: Calls(Calls, eval, script), "Calls"),
        "deep in containers": (lambda: nested, "eval"),
        "numpy object array": (lambda: {"state_dict": {"a": objects}}, "exec"),
        "numpy function": (lambda: Calls(np.savetxt, str(marker), [1.0]), "savetxt"),
        "a state set on an object": (lambda: Sets(argparse.Namespace, (), Calls(eval, script)), "eval"),
        "a key": (lambda: {Calls(eval, script): 1}, "eval"),
        "a whole network": (lambda: {"model": released_files.resnet()}, "torchvision.models.resnet.ResNet"),
    }
    files = {name: (lambda make=make: saved(make()), word) for name, (make, word) in calls.items()}
    old = {"_use_new_zipfile_serialization": False}
    files["of before the zip format"] = (lambda: saved(Calls(os.system, f"touch {marker}"), **old), system)
    files["pickled by protocol 4"] = (lambda: saved(Calls(os.system, f"touch {marker}"), pickle_protocol=4), system)
    files["a plain pickle"] = (lambda: pickle.dumps({"w": Calls(os.system, f"touch {marker}")}), system)
    files["a plain pickle of protocol 0"] = (lambda: pickle.dumps(Calls(eval, script), protocol=0), "eval")
    return files


RUNNING = tuple(running("x"))


@pytest.mark.parametrize("name", RUNNING)
def test_what_would_run_is_refused_by_name_and_does_not(tmp_path, name):
    marker, file = tmp_path / "marker", tmp_path / "model.pth"
    make, word = running(marker)[name]
    file.write_bytes(make())
    line = refusal(tmp_path, "evaluate.py", "--load_from", file, "--dataset", "voc07")
    assert str(file) in line
    assert word in line
    assert not marker.exists()


def test_the_samples_would_run_elsewhere(tmp_path):
    """The same bytes, loaded without protection, do touch the file: the tests above can fail."""
    marker, file = tmp_path / "marker", tmp_path / "model.pth"
    ran = set()
    for name, (make, _) in running(marker).items():
        file.write_bytes(make())
        try:
            torch.load(file, weights_only=False)
        except Exception:
            with file.open("rb") as stream, pytest.MonkeyPatch.context():
                try:
                    pickle.load(stream)
                except Exception:
                    continue
        if marker.exists():
            ran.add(name)
            marker.unlink()
    assert {"os.system in a tensor's place", "eval", "numpy object array", "a key", "a plain pickle"} <= ran
    assert len(ran) >= 12


def broken():
    """Name -> suffix, and how to make a file that is damaged or claims what it lacks, and a word of its refusal."""

    def whole():
        return saved(state())

    huge = torch.zeros(1).expand(64, 3, 7, 7)
    gone = ("fc_all.bias", "layer1.0.bn1.weight")
    sparse, complexes = (torch.zeros(64, 3, 7, 7).to_sparse(), torch.zeros(64, 3, 7, 7, dtype=torch.complex64))
    lying = {"conv1.weight": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}}
    samples = {
        "empty": (lambda: b"", NOT),
        "text": (lambda: b"a checkpoint, honestly\n" * 9, NOT),
        "wrong magic": (lambda: b"\x80\x02\x8a\n" + bytes(200), NOT),
        "zip magic alone": (lambda: b"PK\x03\x04" + bytes(99), NOT),
        "cut to a tenth": (lambda: cut(whole(), 0.1), NOT),
        "cut in the middle": (lambda: cut(whole(), 0.5), NOT),
        "the end cut off": (lambda: whole()[:-30], NOT),
        "old format cut": (lambda: cut(saved(state(), _use_new_zipfile_serialization=False), 0.3), NOT),
        "a zip of something else": (lambda: rezipped(whole(), lambda held: {"a.txt": b"hello"}), NOT),
        "content missing": (lambda: rezipped(whole(), lambda held: without(held, "data.pkl")), NOT),
        "a storage missing": (lambda: rezipped(whole(), lambda held: without(held, "data/3")), NOT),
        "a storage cut": (lambda: rezipped(whole(), lambda held: swapped(held, "data/0", b"abc")), "model.pth"),
        "content of noise": (lambda: rezipped(whole(), lambda held: swapped(held, "data.pkl", b"\x00" * 99)), NOT),
        "a zip bomb": (lambda: compressed(saved({"w": torch.zeros(1 << 22)})), "compressed"),
        "TorchScript": (scripted, "TorchScript"),
        "a tensor alone": (lambda: saved(torch.ones(3)), "no checkpoint, but a Tensor"),
        "a list": (lambda: saved([torch.ones(3)]), "no checkpoint, but a list"),
        "nothing": (lambda: saved({}), "empty dictionary"),
        "numbers by name": (lambda: saved({"a": 1, "b": 2}), "other things (a, b)"),
        "names of another project": (lambda: saved({"stem.weight": torch.ones(2)}), "no kind that is read here"),
        "the state of an optimiser": (lambda: saved({"state_dict": {"lr": 0.1}}), "other things (lr)"),
        "tensors missing": (
            lambda: saved({key: value for key, value in state().items() if key not in gone}),
            "2 missing (backbone.layer1.0.bn1.weight, head.fc.bias)",
        ),
        "tensors too many": (
            lambda: saved(state() | {"fc_all.scale": torch.ones(2), "x": torch.ones(1)}),
            "2 unexpected",
        ),
        "a wrong shape": (
            lambda: saved(with_first(torch.zeros(64, 3, 5, 5))),
            "conv1.weight (64, 3, 5, 5) for (64, 3, 7, 7)",
        ),
        "a matrix of one axis": (lambda: saved(state() | {"fc_all.weight": torch.zeros(512)}), "does not fit"),
        "no classes": (lambda: saved(state() | {"fc_all.weight": torch.zeros(0, 512)}), "at least one class"),
        "blocks of no ResNet": (lambda: saved(state() | {"layer1.7.conv1.weight": torch.zeros(1)}), "which no ResNet"),
        "not a number": (lambda: saved(poisoned(float("nan"))), "conv1.weight holds numbers that are not finite"),
        "infinite": (lambda: saved(poisoned(float("inf"))), "not finite"),
        "whole numbers for weights": (
            lambda: saved(with_first(torch.zeros(64, 3, 7, 7, dtype=torch.int32))),
            "1 of another",
        ),
        "complex": (lambda: saved(with_first(complexes)), "no plain tensor"),
        "sparse": (lambda: saved(with_first(sparse)), "no plain tensor"),
        "meta": (lambda: saved(with_first(torch.zeros(64, 3, 7, 7, device="meta"))), "no plain tensor"),
        "one number for many": (lambda: saved(with_first(huge)), "claims the shape"),
        "a trillion numbers": (
            lambda: saved(state() | {"fc_all.weight": torch.zeros(1).expand(10**6, 10**6)}),
            "claims",
        ),
        "ours, of another format": (lambda: saved(ours(format="partial-truth model 9")), "no kind that is read here"),
        "ours, without weights": (lambda: saved(ours(model={})), "`model`"),
        "ours, texts for weights": (lambda: saved(ours(model={"a": "b"})), "`model`"),
        "ours, NaN": (
            lambda: saved(ours(model=ours()["model"] | {"head.fc.bias": torch.full((20,), torch.nan)})),
            "not finite",
        ),
        "ours, a class too few": (lambda: saved(ours(classes=NAMES[1:])), "another architecture"),
        "ours, of no such network": (lambda: saved(ours(settings={"model": "resnet5"})), "resnet5"),
        "ours, of a width beyond memory": (
            lambda: saved(
                ours(settings={"model": "scenenet", "head": "q2l", "hidden_dim": 10**7, "dim_feedforward": 10**9})
            ),
            "another architecture",
        ),
        "ours, a setting of another kind": (
            lambda: saved(ours(settings={"model": "scenenet", "head": "csra", "num_heads": "x"})),
            "num_heads",
        ),
    }
    files = {name: (".pth", make, word) for name, (make, word) in samples.items()}
    files["safetensors, empty"] = (".safetensors", lambda: b"", NOT)
    files["safetensors, cut"] = (".safetensors", lambda: safetensors.torch.save({"w": torch.zeros(9999)})[:9000], NOT)
    files["safetensors that claims too much"] = (".safetensors", lambda: safetensors_of(lying, bytes(4)), NOT)
    files["safetensors of a huge header"] = (".safetensors", lambda: struct.pack("<Q", 1 << 60) + b"{}", NOT)
    files["ours, says nonsense of itself"] = (
        ".safetensors",
        lambda: own_safetensors(settings="{"),
        "a damaged model file",
    )
    files["ours, says too many classes"] = (
        ".safetensors",
        lambda: own_safetensors(classes="[]", num_classes=str(10**12)),
        "says it has 1000000000000 classes",
    )
    return files


BROKEN = broken()


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused_in_one_line(tmp_path, name):
    suffix, make, word = BROKEN[name]
    file = tmp_path / f"model{suffix}"
    file.write_bytes(make())
    line = refusal(tmp_path, "evaluate.py", "--load_from", file, "--save_as", tmp_path / "out.safetensors")
    assert f"model{suffix}" in line
    assert word in line
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: None], ids=["a folder", "nothing there"])
def test_what_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / "model.pth")
    line = refusal(tmp_path, "evaluate.py", "--load_from", tmp_path / "model.pth", "--dataset", "voc07")
    assert "model.pth: cannot be read" in line
