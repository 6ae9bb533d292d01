"""Checkpoints are read as torch reads them, and no tensor lies outside of the bytes that the file holds."""

import argparse
import io
import pickle
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from utils.checks import UserError
from utils.safe_files import load_tensors
from utils.tensor_files import read_torch

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
DTYPES += [torch.int8, torch.uint8, torch.bool, torch.complex64, torch.complex128]
FORMATS = pytest.mark.parametrize("new", [True, False], ids=["zip", "before zip"])


def saved(content, new, folder):
    file = folder / "model.pth"
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file


@FORMATS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_type_are_those_of_torch(dtype, new, tmp_path):
    generator = torch.Generator().manual_seed(3)
    whole = (torch.randn(4, 5, 6, generator=generator) * 9).to(dtype)
    content = {
        "whole": whole,
        "transposed": whole.transpose(0, 2),
        "strided": whole[1:, ::2, 3:],
        "scalar": whole[0, 0, 0],
        "empty": whole[:0],
        "expanded": whole[:1, :1].expand(3, 2, 6),
    }
    file = saved(content, new, tmp_path)
    found, expected = load_tensors(file), torch.load(file, weights_only=True)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
        assert (found[name].dtype, found[name].stride()) == (value.dtype, value.stride()), name
    assert found["whole"].data_ptr() == found["transposed"].data_ptr(), "one storage stays one"


@FORMATS
def test_parameters_batch_statistics_and_training_states_are_those_of_torch(new, tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5, 5])
    content = {
        "weight": model[0].weight,
        "frozen": nn.Parameter(torch.ones(2), requires_grad=False),
        "state": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "milestones": schedule.state_dict()["milestones"],
        "args": argparse.Namespace(
            lr=0.1, device=torch.device("cuda", 1), size=torch.Size([2, 3]), dtype=torch.float16
        ),
        "best": np.float64(71.25),
        "names": ["cat", ("dog", 3), {"sofa"}, None, True, 2**70],
    }
    found = load_tensors(saved(content, new, tmp_path))
    assert isinstance(found["weight"], nn.Parameter)
    assert found["weight"].requires_grad
    assert not found["frozen"].requires_grad
    assert isinstance(found["state"], OrderedDict)
    for name, value in model.state_dict().items():
        assert torch.equal(found["state"][name], value)
    for key, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(found["optimizer"]["state"][key][name], value)
    assert found["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert found["milestones"] == Counter([2, 5, 5])
    assert found["args"] == {"lr": 0.1, "device": "cuda:1", "size": (2, 3), "dtype": torch.float16}
    assert found["best"] == 71.25
    assert found["names"] == content["names"]
    model.load_state_dict(found["state"])
    optimizer.load_state_dict(found["optimizer"])


def pickled_tensor(offset, size, stride, number=6, kind=b"FloatStorage"):
    """A pickle of one tensor over the storage "0" of `number` elements."""

    def integers(values):
        return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"

    storage = b"(U\x07storagectorch\n" + kind + b"\nU\x010U\x03cpuI%d\ntQ" % number
    arguments = b"(" + storage + b"I%d\n" % offset + integers(size) + integers(stride) + b"I00\nNt"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R."


def archive(content, data=bytes(24)):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        zipped.writestr("archive/data.pkl", content)
        zipped.writestr("archive/data/0", data)
    return file.getvalue()


def read(content, folder):
    (folder / "model.pth").write_bytes(content)
    return load_tensors(folder / "model.pth")


def test_a_tensor_of_bytes_with_a_type_is_read(tmp_path):  # as torch saves unsigned integers since 2.5
    storage = b"(U\x07storagectorch.storage\nUntypedStorage\nU\x010U\x03cpuI10\ntQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v3\n(" + storage + b"I0\n(I5\nt(I1\ntI00\nNctorch\nuint16\ntR"
    found = read(archive(b"\x80\x02" + rebuilt + b".", np.arange(5, dtype="<u2").tobytes()), tmp_path)
    assert (found.dtype, found.tolist()) == (torch.uint16, [0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (2, 3), (3, 1)), (5, (1,), (1,)), (0, (6,), (1,)), (2, (4, 9), (1, 0)), (0, (0, 100), (1, 1)), (0, (), ())],
)
def test_the_last_number_of_the_storage_may_be_used(offset, size, stride, tmp_path):
    assert read(archive(pickled_tensor(offset, size, stride)), tmp_path).shape == size


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (7,), (1,)),
        (1, (2, 3), (3, 1)),
        (6, (1,), (1,)),
        (6, (), ()),
        (0, (2, 2), (5, 1)),
        (5, (2,), (-1,)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (0, (2, 2), (1,)),
        (0, (2**62, 2**62), (1, 1)),
    ],
)
def test_no_tensor_lies_outside_of_its_storage(offset, size, stride, tmp_path):
    with pytest.raises(UserError, match=r"model\.pth: not a readable file of tensors \(a tensor of"):
        read(archive(pickled_tensor(offset, size, stride)), tmp_path)


@pytest.mark.parametrize(("number", "stored"), [(7, 24), (5, 24), (6, 23), (2**60, 24)])
def test_a_storage_is_as_long_as_its_record(number, stored, tmp_path):
    with pytest.raises(UserError, match="bytes for a storage of"):
        read(archive(pickled_tensor(0, (2,), (1,), number), bytes(stored)), tmp_path)


def two(first, second):
    """A pickle of a pair of two pickled tensors."""
    return b"\x80\x02" + first[2:-1] + second[2:-1] + b"\x86."


def test_a_storage_has_one_type(tmp_path):
    first, second = pickled_tensor(0, (2,), (1,)), pickled_tensor(0, (2,), (1,), kind=b"IntStorage")
    assert len(read(archive(two(first, first)), tmp_path)) == 2
    with pytest.raises(UserError, match="two types"):
        read(archive(two(first, second)), tmp_path)


@pytest.mark.parametrize("operation", [b"}b", b"(lb", b"Nb", b"(I0\nI1\nu", b"I0\nI1\ns", b"I0\na", b"(t\x81", b")R"])
def test_operations_for_other_values_do_not_touch_a_tensor(operation, tmp_path):
    content = pickled_tensor(0, (2,), (1,))[:-1] + operation + b"."
    with pytest.raises(UserError):
        read(archive(content), tmp_path)


@pytest.mark.parametrize(
    "bare", [b"ctorch\nFloatStorage\n", b"ctorch\nTensor\n", b"ctorch._utils\n_rebuild_tensor_v2\n"]
)
def test_types_and_functions_are_no_data(bare, tmp_path):
    with pytest.raises(UserError, match="where data is expected"):
        read(archive(b"\x80\x02" + bare + b"."), tmp_path)


def test_bytes_of_another_machine_are_refused(tmp_path):
    file = tmp_path / "model.pth"
    torch.save({"a": torch.ones(2)}, file)
    with zipfile.ZipFile(file) as zipped:
        records = {name: zipped.read(name) for name in zipped.namelist()}
    with zipfile.ZipFile(file, "w") as zipped:
        for name, data in records.items():
            zipped.writestr(name, b"big" if name.endswith("byteorder") else data)
    with pytest.raises(UserError, match="big-endian"):
        load_tensors(file)


def test_a_program_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as zipped:
        zipped.writestr("archive/data.pkl", b"\x80\x02N.")
        zipped.writestr("archive/constants.pkl", b"\x80\x02).")
    with pytest.raises(UserError, match="TorchScript archive is a program"):
        load_tensors(tmp_path / "model.pth")


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.9, 0.999])
@FORMATS
def test_a_file_that_was_cut_is_refused(keep, new, tmp_path):
    file = saved({"a": torch.arange(1000.0), "b": torch.ones(30)}, new, tmp_path)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=r"model\.pth: not a readable file of tensors"):
        load_tensors(file)


def test_old_files_claim_no_more_than_they_hold(tmp_path):
    file = saved(torch.ones(6), False, tmp_path)
    data = file.read_bytes()
    six = pickle.dumps(6, 2)[2:-1]
    assert six + b"Nt" in data
    file.write_bytes(data.replace(six + b"Nt", b"J\xff\xff\xff\x7fNt"))
    with pytest.raises(UserError, match="holds only a part"):
        load_tensors(file)


def test_torch_itself_reads_nothing(tmp_path, monkeypatch):
    file = saved({"a": torch.ones(2)}, True, tmp_path)
    monkeypatch.setattr(torch, "load", lambda *_words, **_named: pytest.fail("torch.load was called"))
    with file.open("rb") as stream:
        assert read_torch(stream)["a"].tolist() == [1, 1]
