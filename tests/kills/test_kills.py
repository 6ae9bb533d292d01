"""A few chains of kills, and that a fault of a run would be seen."""

import json
from pathlib import Path

import pytest
import torch

from losses import CRITERIA
from tests.kills.chains import Bench
from tests.kills.left import differences, rubbish
from tests.kills.methods import ALL, METHODS, WITH_LABEL_STATE, words_of
from tests.kills.plan import KINDS


def test_flags_given_later_win_and_every_run_has_an_output(tmp_path):
    script, words = words_of("LL-Cp", tmp_path)
    assert script == "main_llm"
    assert words[words.index("--export_labels") + 1] == f"{tmp_path}/corrected.npy"
    assert words[words.index("--warmup_epoch") + 1] == "0"
    assert words.count("--warmup_epoch") == 1
    assert set(WITH_LABEL_STATE) <= ALL.keys()
    assert all(words_of(name, tmp_path)[1][-1] == str(tmp_path) for name in ALL)


def test_every_method_is_killed():
    words = {word for name in METHODS for word in words_of(name, Path("out"))[1]} | METHODS.keys()
    assert sorted(CRITERIA.keys() - words - {"large_loss"}) == []  # which is LL-R, LL-Ct and LL-Cp
    with_memory = {name for name in METHODS if name in CRITERIA and CRITERIA[name].criterion.label_memories}
    assert with_memory <= set(WITH_LABEL_STATE)


NAN = torch.tensor([1.0, float("nan")])


def test_the_same_has_no_differences():
    held = {"a": [NAN, {"b": (1, "x", float("nan"))}], "c": torch.zeros(0, dtype=torch.bfloat16)}
    again = {"a": [NAN.clone(), {"b": (1, "x", float("nan"))}], "c": torch.zeros(0, dtype=torch.bfloat16)}
    assert list(differences(held, again)) == []


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ({"a": torch.tensor(0.0)}, {"a": torch.tensor(-0.0)}, ["/a"]),
        ({"a": torch.tensor(0)}, {"a": torch.tensor(0.0)}, ["/a"]),
        ({"a": 1}, {"b": 1}, [": ['a', 'b']"]),
        ([1, 2], [1], [": 2 and 1 entries"]),
        ([1, [2, 3]], [1, [2, 4]], ["/1/1: 3 and 4"]),
        (1, 1.0, [": int and float"]),
    ],
)
def test_differences_are_named(one, other, found):
    assert list(differences(one, other)) == found


def test_what_a_kill_leaves_is_counted(tmp_path):
    (tmp_path / "last").mkdir()
    (tmp_path / "log.jsonl").write_text(json.dumps({"a": 1}) + '\n{"time": "20')
    (tmp_path / "last" / ".state.pth.7.tmp").touch()
    (tmp_path / ".lock").touch()
    assert sorted(rubbish(tmp_path)) == [".lock", ".state.pth.7.tmp", 'log.jsonl: {"time": "20']


def tried(folder, name, chains, kinds=KINDS, **named):
    """Faults of some chains of a run."""
    bench = Bench(folder, name, **named)
    whole = bench.whole()
    assert not isinstance(whole, str), whole
    found = [bench.attempt(number, whole, seed=5, kills=2, kinds=kinds) for number in range(chains)]
    return [chain for chain in found if chain.fault], sum(chain.kills for chain in found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kills")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bce+ema", "cones", "LL-Cp+record"])
def test_chains_of_kills_end_bit_for_bit(folder, name):
    faults, kills = tried(folder, name, 3)
    assert (faults, kills > 0) == ([], True)


@pytest.mark.slow
def test_two_processes_killed_within_an_epoch_go_on_bit_for_bit(folder):
    # No signals: they may come before the processes have met, where only a launcher can end the one that waits.
    faults, kills = tried(folder, "cones", 2, kinds=("renamed", "written"), processes=2)
    assert (faults, kills > 0) == ([], True)
