"""Where label memories go, by pretended amounts of free memory."""

from types import SimpleNamespace

import pytest
import torch

from engine.training import label_memory as module
from engine.training.label_memory import FreeMemory, MemoryConfig, free_now, memories_on_host
from losses.common.memory import MemoryNeed
from tests.ranks import run_ranks
from utils.checks import UserError

GIB = 1 << 30
ROWS = MemoryNeed("confidences", 4 * GIB)
BANK = MemoryNeed("prototypes", GIB, per_image=False, remedy="a smaller --memory_per_class")
RECORDS = MemoryNeed("records of all", 3 * GIB, remedy="--record none")
LEARNED = MemoryNeed("estimates", 2 * GIB, learned=True)
PLENTY = 1000 * GIB
FEWER = "fewer images by --ss_frac_train"


def decided(wish, needs, device, host=PLENTY, learned_copies=4):
    return memories_on_host(
        MemoryConfig(label_memory=wish), "cones", needs, FreeMemory(host, device), learned_copies=learned_copies
    )


@pytest.mark.parametrize(
    ("wish", "device", "on_host"),
    [
        ("auto", 10 * GIB, False),
        ("auto", 10 * GIB - 1, True),
        ("auto", GIB, True),
        ("device", 5 * GIB, False),
        ("host", PLENTY, True),
        ("host", GIB, True),
    ],
)
def test_memories_are_on_the_gpu_where_half_of_it_holds_all_that_is_kept(wish, device, on_host):
    assert decided(wish, [ROWS, BANK], device) is on_host


@pytest.mark.parametrize("wish", ["auto", "device", "host"])
def test_nothing_moves_where_there_is_nothing_to_move_or_no_gpu(wish):
    assert decided(wish, [], 0) is False
    assert decided(wish, [BANK], GIB) is False
    assert decided(wish, [ROWS, BANK], None, host=5 * GIB) is False


def test_what_is_learned_counts_with_its_gradient_and_the_optimiser():
    assert decided("auto", [LEARNED], 16 * GIB) is False
    assert decided("auto", [LEARNED], 16 * GIB - 1) is True
    assert decided("auto", [LEARNED], 16 * GIB - 1, learned_copies=3) is False


REFUSED = [
    (
        ("device", [ROWS, BANK], 5 * GIB - 1),
        "cones keeps confidences of 4.00 GiB and prototypes of 1.00 GiB on the GPU, of which 5.00 GiB are free; give "
        "--label_memory host or a smaller --memory_per_class or fewer images by --ss_frac_train",
    ),
    (
        ("host", [ROWS, BANK], GIB - 1),
        "cones keeps prototypes of 1.00 GiB on the GPU, of which 1.00 GiB are free; give a smaller --memory_per_class",
    ),
    (
        ("host", [ROWS, RECORDS, BANK], PLENTY, 6 * GIB),
        "cones keeps confidences of 4.00 GiB and records of all of 3.00 GiB in memory, of which 6.00 GiB are free; "
        f"give --record none or {FEWER}",
    ),
    (
        ("auto", [ROWS], None, 3 * GIB),
        f"cones keeps confidences of 4.00 GiB in memory, of which 3.00 GiB are free; give {FEWER}",
    ),
    (
        ("auto", [LEARNED], None, 8 * GIB - 1),
        f"cones keeps estimates of 8.00 GiB in memory, of which 8.00 GiB are free; give {FEWER}",
    ),
    (
        ("device", [ROWS], PLENTY, 3 * GIB),
        f"cones keeps confidences of 4.00 GiB in memory, of which 3.00 GiB are free; give {FEWER}",
    ),
]


@pytest.mark.parametrize(("case", "line"), REFUSED)
def test_what_has_no_room_is_refused_in_one_line_that_says_what_helps(case, line):
    with pytest.raises(UserError) as error:
        decided(*case)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("wish", "needs", "device", "host"),
    [
        ("device", [ROWS, BANK], 5 * GIB, 5 * GIB),
        ("host", [ROWS, BANK], GIB, 4 * GIB),
        ("device", [LEARNED], 8 * GIB, 2 * GIB),  # made once on the host; gradient and optimiser are on the GPU alone
        ("host", [LEARNED], 0, 8 * GIB),
        ("auto", [LEARNED], None, 8 * GIB),
    ],
)
def test_what_just_fits_is_kept(wish, needs, device, host):
    decided(wish, needs, device, host)


@pytest.mark.parametrize(("kind", "device"), [("cpu", None), ("cuda", 7 * GIB)])
def test_processes_share_the_memory_of_the_machine_and_have_a_gpu_each(monkeypatch, kind, device):
    monkeypatch.setattr(module, "usable_memory", lambda: 12 * GIB)
    monkeypatch.setattr(module.torch.cuda, "mem_get_info", lambda device: (7 * GIB, 80 * GIB))
    monkeypatch.setattr(module.torch, "tensor", lambda values, device: torch.empty(0).new_tensor(values, dtype=int))
    runtime = SimpleNamespace(device=torch.device(kind), local_world_size=3)
    assert free_now(runtime) == FreeMemory(4 * GIB, device)


def least(rank):
    module.usable_memory = lambda: (5 - rank) * GIB
    return free_now(SimpleNamespace(device=torch.device("cpu"), local_world_size=2))


def test_the_process_with_least_memory_decides_for_all():
    assert run_ranks(least) == [FreeMemory(2 * GIB)] * 2
