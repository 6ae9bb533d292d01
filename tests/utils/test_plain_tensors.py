"""Tensors of a file that are what they claim to be: numbers, complete and finite."""

import os
import re
from pathlib import Path

import pytest
import torch

from utils.checks import UserError
from utils.safe_files import is_state, load_metadata, load_tensors, require_plain_tensors

FILE = Path("x.pth")


def refusal(value, name="w"):
    with pytest.raises(UserError) as error:
        require_plain_tensors({"good": torch.ones(2), name: value}, FILE)
    return str(error.value)


@pytest.mark.parametrize(
    "value",
    [
        *(torch.ones(2, 3, dtype=kind) for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64)),
        *(torch.ones(2, dtype=kind) for kind in (torch.int8, torch.uint8, torch.int64, torch.bool)),
        torch.arange(12.0).reshape(3, 4).T,
        torch.arange(12.0)[3:],
        torch.zeros(0, 5),
        torch.zeros(()),
    ],
    ids=str,
)
def test_tensors_of_numbers_are_taken(value):
    require_plain_tensors({"w": value}, FILE)


@pytest.mark.parametrize(
    "value",
    [torch.ones(2, dtype=torch.complex64), torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta")],
    ids=["complex", "sparse", "without values"],
)
def test_others_are_refused_by_name(value):
    assert "x.pth: w is no plain tensor of numbers (" in refusal(value)


def test_a_shape_that_the_file_does_not_hold_is_refused():
    assert "w claims the shape (2, 1000000), of which" in refusal(torch.ones(1, 1).expand(2, 1_000_000))
    require_plain_tensors({"w": torch.ones(4).expand(1, 4)}, FILE)
    assert "claims the shape (2, 4)" in refusal(torch.ones(4).expand(2, 4))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(number):
    assert "w holds numbers that are not finite" in refusal(torch.tensor([1.0, number]))


def test_long_names_are_cut():
    message = refusal(torch.tensor([float("nan")]), "n" * 200)
    assert f"x.pth: {'n' * 80} holds" in message


@pytest.mark.parametrize(
    ("content", "is_one"),
    [
        ({"a": torch.ones(1)}, True),
        ({}, False),
        ({"a": torch.ones(1), "b": 1}, False),
        ({"a": torch.ones(1), 2: torch.ones(1)}, False),
        ([torch.ones(1)], False),
    ],
)
def test_a_state_is_names_and_tensors_at_least_one(content, is_one):
    assert is_state(content) is is_one


def test_metadata_of_safetensors(tmp_path):
    import safetensors.torch

    for name, metadata in (("a", {"format": "pt", "epoch": "3"}), ("b", None)):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(safetensors.torch.save({"w": torch.ones(1)}, metadata))
        assert load_metadata(file) == (metadata or {})
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"c\.safetensors"):
        load_metadata(tmp_path / "c.safetensors")


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return self.function, ("true",)


def test_what_a_file_asks_to_run_is_listed_in_its_order_with_torchs_own_last(tmp_path):
    torch.save([Calls(torch.load), Calls(os.system), Calls(torch.compile), Calls(eval)], tmp_path / "a.pth")
    names = ", ".join([f"{os.system.__module__}.system", "builtins.eval", "torch.serialization.load", "torch.compile"])
    with pytest.raises(UserError, match=re.escape(f"the file asks to run {names};")):
        load_tensors(tmp_path / "a.pth")
