"""Every method on one process, on two and on three: the same losses, selections, memories, curves and weights."""

from itertools import product

import pytest
import torch

from engine.core.distributed import Runtime
from losses import CRITERIA
from tests.equality.__main__ import main
from tests.equality.comparison import LARGEST, differences
from tests.equality.processes import as_rank
from tests.equality.training import EVERY, InTurn, Left, train
from tests.equality.turns import Turns
from tests.ranks import run_ranks

ACTS = {
    **{"cap": "pseudo", "cdcr": "negatives_only", "cls": "removed_low", "co-teaching": "kept", "comic": "modified"},
    **{"consistency": "pseudo_present", "curriculum": "pseudo_present", "em_apl": "pseudo", "gpr": "labelled"},
    **{
        "hst": "inter_added",
        "imcl": "collaborative",
        "ignore": "rejected",
        "lac": "lac",
        "large_loss": "modified",
        "mime": "pseudo_present",
        "ndlp": "mix",
    },
    **{"plc": "pseudo_present", "pu_mlc": "mixup", "sarb": "blended", "splc": "modified", "vlpl": "labelled"},
}
"""A column of each of these methods that does not stay 0 in a run that compares something."""


def test_every_method_is_compared():
    assert {case.method for case in EVERY.values()} == set(CRITERIA)


def faults(case, found, expected):
    apart = differences(case.method, found, expected)
    return {part: largest for part, largest in apart.items() if not largest <= LARGEST[part]}


@pytest.fixture(scope="module")
def runtime():
    return InTurn("cpu", "fp64")


@pytest.mark.parametrize("name", CRITERIA)
def test_three_processes_train_like_one(name, runtime):
    case, epochs = EVERY[name], 2 if name in ACTS else 1
    alone, *several = (Turns(size).run(lambda rank: train(case, runtime, rows=7, epochs=epochs)) for size in (1, 3))
    assert [faults(case, found, alone[0]) for found in several[0]] == [{}] * 3


RATES = {"fixed logits": 1e-30, "training": 0.05}  # no weight of float64 moves by the former


def of_every_run(rank, way):
    """What each run leaves on real processes, its networks wrapped."""
    with as_rank(rank):
        return {name: train(case, Runtime("cpu", "fp64"), lr=RATES[way]) for name, case in EVERY.items()}


@pytest.fixture(scope="module")
def alone():
    return {way: of_every_run(None, way) for way in RATES}


@pytest.mark.slow
@pytest.mark.parametrize("way", RATES)
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_have_the_losses_selections_and_memories_of_one(processes, way, alone):
    for found in run_ranks(of_every_run, way, world_size=processes):
        wrong = {name: faults(EVERY[name], left, alone[way][name]) for name, left in found.items()}
        assert {name: fault for name, fault in wrong.items() if fault} == {}


@pytest.mark.slow
def test_the_runs_compare_something(alone):
    for name, column in ACTS.items():
        assert alone["training"][name].columns[column].any(), name
    assert sum(bool(left.selected.any()) for left in alone["training"].values()) > 20
    for (way, runs), name in product(alone.items(), EVERY):
        left = runs[name]
        steps = left.logits.abs().sum(dim=2).bool().sum(dim=1)
        assert (left.losses.isfinite().all(), sorted(set(steps.tolist()))) == (True, [2, 5]), name
        same = torch.equal(*(left.logits[step][row] for step, row in _visits(left, 0)[:2]))
        assert same == (way == "fixed logits"), (name, way)


def _visits(left, row):
    """Steps in which an image was trained on."""
    return [(step, row) for step, logits in enumerate(left.logits) if logits[row].any()]


def test_the_table_has_a_line_for_each_number_of_processes(capsys):
    main(["large_loss LL-Cp", "--processes", "2,4"])
    head, _, *lines = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines())
    assert head == ["run", "processes", "losses", "logits", "selected", "columns", "memories", "weights"]
    assert [line[:2] for line in lines] == [["large_loss LL-Cp", "2"], ["large_loss LL-Cp", "4"]]
    assert all(float(value) < 1e-6 for line in lines for value in line[2:])


SOME = Left(*(torch.tensor([1.0, 20.0, float("nan")]),) * 3, *({"a": torch.tensor([2.0]), "b": torch.zeros(0)},) * 3)


def test_the_largest_difference_of_each_part_is_found():
    assert differences("bce", SOME, SOME) == dict.fromkeys(Left._fields, 0.0)
    other = SOME._replace(
        losses=torch.tensor([1.5, 20.0, float("nan")]),
        logits=torch.tensor([1.0, 30.0, float("nan")]),
        selected=torch.zeros(2),
        columns={"a": torch.tensor([3.0]), "b": torch.zeros(0)},
        memories={"a": torch.tensor([2.0])},
        weights={"a": torch.tensor([float("nan")]), "b": torch.zeros(0)},
    )
    found = differences("bce", other, SOME)
    expected = {"losses": 0.5, "logits": 0.5, "columns": 0.5, "selected": torch.inf, "memories": torch.inf}
    assert {name: found[name] for name in expected} == expected
    assert found["weights"] > 1e20
    ratio = other._replace(columns={"a": torch.tensor([2.0]), "bce": torch.ones(1)})
    whole = SOME._replace(columns={"a": torch.tensor([2.0]), "bce": torch.zeros(1)})
    assert [differences(name, ratio, whole)["columns"] for name in ("label_mask", "bce")] == [0.0, 1.0]
