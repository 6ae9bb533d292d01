"""Names in checkpoints from elsewhere: averages, counters, wrappers."""

import pytest
import torch

from utils.state_names import (
    is_average,
    is_counter,
    letters,
    plain_names,
    split_average,
    split_copies,
    without_wrappers,
)


@pytest.mark.parametrize(
    "key", ["ema", "model_ema", "state_dict_ema", "modelEMA", "swa", "swa_state", "averaged_model", "net-avg", "ema2"]
)
def test_averages_are_known_by_their_name(key):
    assert is_average(key)


@pytest.mark.parametrize("key", ["model", "state_dict", "schema", "remainder", "average_pool2d.weightless", "emanate"])
def test_other_names_are_no_averages(key):
    assert is_average(key) == key.startswith("average_")


@pytest.mark.parametrize(
    ("name", "value", "counted"),
    [
        ("layer1.total_ops", torch.zeros(1), True),
        ("total_params", torch.zeros(8), True),
        ("total_params", torch.zeros(9), False),
        ("features.flops", 3, True),
        ("n_averaged", torch.tensor(5), True),
        ("n_averaged", torch.zeros(2), False),
        ("conv.weight", torch.zeros(1), False),
        ("conv.duration", "text", False),
        *(("conv.duration", value, True) for value in (3, 0.5, [1], (2, 3))),
    ],
)
def test_counters_are_small_and_have_their_names(name, value, counted):
    assert is_counter(name, value) == counted


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("conv1.weight", "conv1.weight"),
        ("module.conv1.weight", "conv1.weight"),
        ("module.module._orig_mod.conv1.weight", "conv1.weight"),
        ("layer1._fsdp_wrapped_module.0.weight", "layer1.0.weight"),
        ("a._orig_mod._orig_mod.b._orig_mod.c", "a.b.c"),
        ("head.module.weight", "head.module.weight"),
    ],
)
def test_wrappers_are_taken_off(name, plain):
    assert without_wrappers(name) == plain


def test_an_attribute_goes_where_all_names_have_it():
    assert plain_names(["model.a", "module.model.b"]) == {"model.a": "a", "module.model.b": "b"}
    assert plain_names(["model.a", "b"]) == {"model.a": "model.a", "b": "b"}
    assert plain_names([]) == {}
    assert letters(["model.a.b_1", "model.c"]) == {"ab1": "model.a.b_1", "c": "model.c"}


def test_raw_and_averaged_tensors_of_one_state_are_told_apart():
    one, two = torch.zeros(1), torch.ones(1)
    raw, averaged, exchanged = split_average({"fc.weight": one, "ema.fc.weight": two, "ema.decay": two})
    assert (raw, averaged, exchanged) == ({"fc.weight": one}, {"fc.weight": two}, False)
    raw, averaged, exchanged = split_average({"fc.weight": one, "ema_fc_weight": two})
    assert (set(raw), set(averaged), exchanged) == ({"fc.weight"}, {"fc_weight"}, True)


@pytest.mark.parametrize(
    ("names", "exchanged"),
    [
        (["ema_fcweight", "ema_fc_bias"], True),
        (["ema_fc.weight"], False),
        (["ema.fcweight"], False),
        (["ema.fcweight", "ema_fcbias"], False),
        (["ema_fcbias", "ema.fcweight"], False),
    ],
)
def test_only_names_that_are_all_without_dots_are_those_of_mmcv(names, exchanged):
    assert split_average({name: torch.ones(1) for name in names})[2] is exchanged


def test_two_copies_are_told_apart_by_what_their_names_begin_with():
    one, two = torch.zeros(1), torch.ones(1)
    found = split_copies(
        {"m.net.a": one, "m.net.b": one, "m.slow.k.a": two, "m.slow.k.b": two, "m.slow.n_averaged": two}
    )
    assert found == ({"net.a": one, "net.b": one}, {"a": two, "b": two}, "slow")
    assert split_copies({"my_ema.a": two}) == ({}, {"a": two}, "my_ema")


@pytest.mark.parametrize(
    "names",
    [
        ["a", "b"],
        ["x.a", "y.a"],
        ["teacher.a", "teacher.b"],
        ["a.w", "avg_pool.v"],
        ["a.w", "ema.v", "ema.u", "ema.w"],
        [],
    ],
)
def test_what_are_no_two_copies_is_left_alone(names):
    assert split_copies({name: torch.ones(1) for name in names}) is None


def test_copies_of_other_shapes_are_none():
    assert split_copies({"a.w": torch.ones(1), "ema_b.w": torch.ones(2)}) is None
