"""Checkpoints are read as torch reads them, and no tensor lies outside of the bytes that the file holds."""

import argparse
import io
import pickle
import re
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from utils import tensor_files
from utils.checks import UserError
from utils.safe_files import load_tensors
from utils.tensor_files import _filled, _Storage, read_torch

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
        "nothing": torch.empty(0, 3, dtype=dtype),
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
    numbers = torch.arange(6.0)
    found = read(archive(pickled_tensor(offset, size, stride), numbers.numpy().tobytes()), tmp_path)
    assert torch.equal(found, numbers.as_strided(size, stride, offset))


def test_a_tensor_of_nothing_begins_nowhere_beyond_its_storage(tmp_path):
    found = read(archive(pickled_tensor(100, (3, 0), (1, 1))), tmp_path)
    assert (found.shape, found.storage_offset()) == ((3, 0), 0)


STORAGE = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuI6\nt"


@pytest.mark.parametrize(
    "storage",
    [
        b"]" + STORAGE[:-1] + b"e",
        STORAGE[:-4] + b"t",
        STORAGE.replace(b"\x07storage", b"\x06module"),
        STORAGE[:-1] + b"I0\nt",
        STORAGE[:-1] + b"NNt",
    ],
    ids=["a list", "too short", "another word", "a view", "too long"],
)
def test_a_persistent_id_names_a_storage(storage, tmp_path):
    content = pickled_tensor(0, (2,), (1,)).replace(STORAGE, storage)
    with pytest.raises(UserError, match="a persistent id that names no storage"):
        read(archive(content), tmp_path)


@pytest.mark.parametrize(
    ("part", "other"),
    [(b"FloatStorage", b"float32"), (b"U\x010", b"I0\n"), (b"I6\n", b"F6.0\n"), (b"I6\n", b"I-1\n")],
    ids=["type", "key", "fraction", "negative"],
)
def test_a_storage_has_a_type_a_key_and_a_number(part, other, tmp_path):
    content = pickled_tensor(0, (2,), (1,)).replace(STORAGE, STORAGE.replace(part, other))
    with pytest.raises(UserError, match="a storage that is not plain"):
        read(archive(content), tmp_path)


@pytest.mark.parametrize("part", [b"(I2\nt(I1\nt", b"I0\n(I2\n"])
def test_sizes_and_places_are_whole_numbers(part, tmp_path):
    content = pickled_tensor(0, (2,), (1,))
    assert part in content
    with pytest.raises(UserError, match="a tensor of impossible shape"):
        read(archive(content.replace(part, part.replace(b"I", b"F", 1))), tmp_path)


@pytest.mark.parametrize("learned", [True, False])
@FORMATS
def test_tensors_keep_their_gradient_and_lose_their_attributes(learned, new, tmp_path):
    tensor = torch.ones(2, requires_grad=learned)
    tensor.tag = "x"
    found = load_tensors(saved([tensor, torch.ones(2, requires_grad=learned)], new, tmp_path))
    assert [(each.requires_grad, each.tolist()) for each in found] == [(learned, [1, 1])] * 2
    assert not hasattr(found[0], "tag")


def test_the_oldest_tensors_have_no_word_on_gradients(tmp_path):
    content = pickled_tensor(0, (2,), (1,)).replace(b"_rebuild_tensor_v2", b"_rebuild_tensor")
    found = read(archive(content.replace(b"I00\nNt", b"t")), tmp_path)
    assert (found.tolist(), found.requires_grad) == ([0, 0], False)


def test_a_tensor_with_attributes_is_made_as_tensors_are(tmp_path):
    content = b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nSize\nctorch\nTensor\n(t}tR."
    with pytest.raises(UserError, match="a tensor that is made in an unknown way"):
        read(archive(content), tmp_path)


def test_a_parameter_is_made_of_a_tensor(tmp_path):
    with pytest.raises(UserError, match="not a readable file of tensors"):
        read(archive(b"\x80\x02ctorch._utils\n_rebuild_parameter\n(NI01\nNtR."), tmp_path)


def test_keys_of_a_counter_are_plain(tmp_path):
    content = b"\x80\x04ccollections\nCounter\n](](" + b"(\x91" + b"K\x01ee\x85R."
    with pytest.raises(UserError, match="where a number or a string is expected"):
        read(archive(content), tmp_path)


def test_a_device_without_a_number_is_a_word(tmp_path):
    assert load_tensors(saved([torch.device("cpu"), torch.device("cuda", 0)], True, tmp_path)) == ["cpu", "cuda:0"]


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


def test_a_storage_has_one_length(tmp_path):
    first, second = pickled_tensor(0, (2,), (1,)), pickled_tensor(0, (2,), (1,), number=5)
    with pytest.raises(UserError, match="two types or lengths"):
        read(archive(two(first, second)), tmp_path)


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


@pytest.mark.parametrize("names", [["archive/data/0"], ["a/data.pkl", "b/data.pkl"], ["data.pkl"]])
def test_an_archive_has_one_pickle_in_one_folder(names, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as zipped:
        for name in names:
            zipped.writestr(name, b"\x80\x02N.")
    with pytest.raises(UserError, match=r"an archive without data\.pkl"):
        load_tensors(tmp_path / "model.pth")


@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/data/0"])
def test_no_record_is_compressed_or_longer_than_the_file(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as zipped:
        for each, data in (("archive/data.pkl", pickled_tensor(0, (2,), (1,))), ("archive/data/0", bytes(24))):
            zipped.writestr(each, data, zipfile.ZIP_DEFLATED if each == name else zipfile.ZIP_STORED)
    with pytest.raises(UserError, match="compressed or overlap"):
        load_tensors(tmp_path / "model.pth")
    whole = archive(pickled_tensor(0, (2,), (1,)))
    place = whole.rindex(name.encode()) - 22  # of the length of the record, in the list at the end of the archive
    with pytest.raises(UserError, match="compressed or overlap"):
        read(whole[:place] + (9999).to_bytes(4, "little") + whole[place + 4 :], tmp_path)


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


def old_file_with(changes, folder):
    """What is said of a file of torch before 1.6 in which each of the parts has been replaced."""
    file = saved(torch.ones(6), False, folder)
    data = file.read_bytes()
    for part, other in changes:
        assert data.count(part) == 1
        data = data.replace(part, other)
    file.write_bytes(data)
    with pytest.raises(UserError) as error:
        load_tensors(file)
    return str(error.value)


@pytest.mark.parametrize("claimed", [b"J\xff\xff\xff\x7f", b"M\xf4\x01"], ids=["2147483647", "500"])
def test_old_files_claim_no_more_than_they_hold(claimed, tmp_path):
    six = pickle.dumps(6, 2)[2:-1]
    assert "holds only a part" in old_file_with([(six + b"Nt", claimed + b"Nt")], tmp_path)


@pytest.mark.parametrize(
    ("part", "other", "words"),
    [
        (pickle.dumps(1001, 2), pickle.dumps(1002, 2), "no file of torch.save"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(0x1950A86A20F9469CFC6D, 2), "no file of torch.save"),
        (b"little_endianq\x02\x88", b"little_endianq\x02\x89", "written on a big-endian machine"),
        (bytes([6, *bytes(7)]), bytes([7, *bytes(7)]), "a storage of another length than its tensors say"),
        (bytes([6, *bytes(7)]), bytes([6, *bytes(6), 1]), "a storage of another length than its tensors say"),
    ],
)
def test_old_files_begin_and_end_as_torch_writes_them(part, other, words, tmp_path):
    assert words in old_file_with([(part, other)], tmp_path)


def test_old_files_list_each_storage_once(tmp_path):
    data = saved(torch.ones(6), False, tmp_path).read_bytes()
    (keys,) = re.findall(rb"\x80\x02\]q\x00(X.{4}\d+q\x01)a\.", data, re.DOTALL)
    for others in (b"(" + 2 * keys + b"e", b"X\x01\x00\x00\x00xa", b""):
        (tmp_path / "model.pth").write_bytes(data.replace(b"]q\x00" + keys + b"a.", b"]q\x00" + others + b"."))
        with pytest.raises(UserError, match="storages are missing"):
            load_tensors(tmp_path / "model.pth")


class Drops(io.BytesIO):
    """A stream that gives few bytes at a time."""

    def readinto(self, room):
        return super().readinto(room[:5])


def test_a_storage_is_filled_by_a_stream_of_any_pace():
    values = torch.arange(6.0)
    data = values.numpy().tobytes()
    assert torch.equal(_filled(_Storage(torch.empty(6)), Drops(data)).values, values)
    with pytest.raises(EOFError):
        _filled(_Storage(torch.empty(6)), Drops(data[:-1]))


def test_no_more_than_a_part_of_a_file_is_read_at_a_time(tmp_path, monkeypatch):
    asked, read = [], zipfile.ZipExtFile.read
    monkeypatch.setattr(tensor_files, "_PART", 1000)
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda file, n=-1: asked.append(n) or read(file, n))
    values = torch.arange(4096.0)
    with saved({"a": values}, True, tmp_path).open("rb") as stream:
        assert torch.equal(read_torch(stream)["a"], values)
    assert asked.count(1000) >= 16
    assert max(asked) < 4 * 4096


def test_torch_itself_reads_nothing(tmp_path, monkeypatch):
    file = saved({"a": torch.ones(2)}, True, tmp_path)
    monkeypatch.setattr(torch, "load", lambda *_words, **_named: pytest.fail("torch.load was called"))
    with file.open("rb") as stream:
        assert read_torch(stream)["a"].tolist() == [1, 1]
