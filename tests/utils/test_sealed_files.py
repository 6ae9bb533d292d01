"""Files of tensors whose every byte is under a checksum."""

import random

import pytest
import torch

from utils.checks import RunError, UserError
from utils.safe_files import load_tensors
from utils.sealed_files import check_seal, save_sealed

CONTENT = {"w": torch.arange(300.0), "n": {"epoch": 3, "name": "a"}, "h": torch.ones(3, dtype=torch.bfloat16)}


@pytest.fixture
def file(tmp_path):
    save_sealed(tmp_path / "a.pth", CONTENT)
    return tmp_path / "a.pth"


@pytest.mark.parametrize("mapped", [False, True])
def test_torch_reads_a_sealed_file_as_any_other(file, mapped):
    content = torch.load(file, weights_only=True, mmap=mapped)
    assert torch.equal(content["w"], CONTENT["w"])
    assert content["n"] == CONTENT["n"]
    assert torch.equal(load_tensors(file)["h"], CONTENT["h"])
    check_seal(file)


def read(file):
    """What the file holds, if nothing is wrong with it."""
    check_seal(file)
    return load_tensors(file)


def test_no_flipped_bit_passes(file):
    whole = file.read_bytes()
    rng = random.Random(0)
    end = 8 * (len(whole) - 56)
    for place in [rng.randrange(8 * len(whole)) for _ in range(60)] + list(range(end, 8 * len(whole), 5)):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        with pytest.raises(UserError, match=r"a\.pth: (its checksum is wrong|it does not end with its checksum)"):
            read(file)


@pytest.mark.parametrize("change", [lambda whole: whole + b"x", lambda whole: whole[:-1], lambda whole: whole[:-28]])
def test_a_file_cut_or_lengthened_is_refused(file, change):
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError):
        read(file)


def test_files_of_earlier_versions_and_of_others_pass(tmp_path):
    torch.save(CONTENT, tmp_path / "a.pth")
    check_seal(tmp_path / "a.pth")
    torch.save(CONTENT, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    check_seal(tmp_path / "a.pth")
    save_sealed(tmp_path / "a.pth", CONTENT)
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes() + b"more")
    check_seal(tmp_path / "a.pth", ours=False)
    (tmp_path / "a.pth").write_bytes(b"")
    check_seal(tmp_path / "a.pth")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.pth: cannot be read: No such file"):
        check_seal(tmp_path / "a.pth")


def test_the_file_that_is_replaced_is_kept_once_the_new_one_is_whole(tmp_path):
    new, old = tmp_path / "a.pth", tmp_path / "b.pth"
    for number in range(3):
        save_sealed(new, {"n": number}, old)
        assert load_tensors(new) == {"n": number}
    assert load_tensors(old) == {"n": 1}
    with pytest.raises(RunError):
        save_sealed(tmp_path / "none" / "a.pth", {}, tmp_path / "none" / "b.pth")
    assert sorted(tmp_path.iterdir()) == [new, old]
