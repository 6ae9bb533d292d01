"""What every criterion keeps of each training image: it is declared, planned, and the same on the host."""

import pytest
import torch

from losses import CRITERIA, build_criterion
from tests.losses.common.test_base import OPTIONS, ROWS, labels_of

KEPT = {"cones": 2, "ndlp": 1, "large_loss": 1, "curriculum": 2, "em_apl": 2, "role": 1, "cdcr": 2}
KEPT |= {"imcl": 2, "mime": 2, "vlpl": 1, "gpr": 1, "cap": 2, "transition": 2, "hst": 2}
PARTS = [{"centres.bank.rows", "centres.centres"}]
"""State that is planned as one."""


def built(name):
    return build_criterion(name, observed=labels_of(name), epochs=4, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", CRITERIA)
def test_whatever_has_a_row_per_image_is_declared_and_planned(name):
    criterion = built(name)
    held = {**dict(criterion.named_buffers()), **dict(criterion.named_parameters())}
    candidates = {key for key in held if key.startswith("confidence.")}
    rows = {key for key, value in held.items() if value.ndim and len(value) == ROWS and key not in candidates}
    assert rows | {key.partition(".")[0] for key in candidates} == criterion.label_memories
    assert len(candidates) == (3 if name in ("cones", "ndlp") else 0)
    needs = criterion.memory_needs(criterion.config, criterion.info)
    assert len(needs) == KEPT.get(name, 0)
    sizes = [need.size for need in needs if need.name != "scores"]  # of a round of labelling, kept no longer
    banks = {"bank.rows", "dictionary.features", "dictionary.codes", "pairs.weights"}
    large = [value.nbytes for key, value in held.items() if key in rows | banks]
    large += [
        sum(held[key].nbytes for key in parts) for parts in (candidates, *PARTS) if parts and parts <= held.keys()
    ]
    assert sorted(sizes) == sorted(large)
    assert [need.learned for need in needs] == [name == "role" or need.name == "pairs of classes" for need in needs]
    assert [need.per_image for need in needs] == [
        name not in ("imcl", "hst") and need.name != "prototypes" for need in needs
    ]


def test_corrections_are_planned_where_there_are_any():
    kind = CRITERIA["large_loss"]
    info = built("large_loss").info
    assert kind.criterion.memory_needs(kind.config(mod_scheme="LL-R"), info) == []


@pytest.mark.parametrize("name", ["cones", "ndlp", "role", "large_loss", "bce"])
@pytest.mark.parametrize("on_host", [False, True])
def test_memories_stay_where_they_are_when_the_rest_moves(name, on_host):
    criterion = built(name)
    names, before = list(criterion.state_dict()), dict(criterion.named_buffers()) | dict(criterion.named_parameters())
    trained = list(criterion.parameters())
    assert criterion.placed("meta", memories_on_host=on_host) is criterion
    assert list(criterion.state_dict()) == names
    held = {**dict(criterion.named_buffers()), **dict(criterion.named_parameters())}
    for key, value in held.items():
        stays = on_host and key.partition(".")[0] in criterion.label_memories
        assert value.device.type == ("cpu" if stays else "meta"), key
        assert not stays or value is before[key]
    if on_host:
        assert all(one is other for one, other in zip(criterion.parameters(), trained, strict=True))
    assert criterion.memories_on_host is on_host


def test_memories_are_on_the_device_unless_asked():
    criterion = built("cones")
    assert criterion.memories_on_host is False
    assert criterion.placed(torch.device("meta")).confidence.values.device.type == "meta"
