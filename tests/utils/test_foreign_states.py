"""Weights in files of other people's codes: which are taken, what is said, and what is refused in one line."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from utils.checks import UserError
from utils.foreign_states import choose_state

FILE = Path("x.pth")
NAMES = ("conv1.weight", "bn1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "fc.weight")


def state(value, names=NAMES, prefix=""):
    """A state of which every tensor is of one value."""
    return OrderedDict((f"{prefix}{name}", torch.full((2,), float(value))) for name in names)


RAW, EMA = state(1), state(2)


def swapped_by_mmengine():
    return {"state_dict": state(2), "ema_state_dict": {**state(1, prefix="module."), "steps": torch.tensor(9)}}


def in_one_state(*, raw, averaged, **more):
    return {**state(1, prefix=raw), **state(2, prefix=averaged), **more}


def dotless(prefix, raw, averaged):
    flat = {f"{prefix}{name.replace('.', '_')}": value for name, value in state(averaged).items()}
    return {**state(raw), **flat}


BOTH = {
    "timm": {"state_dict": RAW, "state_dict_ema": EMA, "epoch": 3},
    "model_ema": {"model": RAW, "model_ema": EMA},
    "ema": {"net": RAW, "ema": EMA, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
    "ema first": {"ema_state_dict": EMA, "model_state_dict": RAW},
    "module": {"model": state(1, prefix="module."), "ema": state(2, prefix="module.")},
    "module of one": {"model": RAW, "ema": state(2, prefix="module.")},
    "n_averaged": {"model": RAW, "second": {"n_averaged": torch.tensor(5), **state(2, prefix="module.")}},
    "AveragedModel of DataParallel": {
        "model": state(1, prefix="module."),
        "swa_model": {"n_averaged": torch.tensor(5), **state(2, prefix="module.module.")},
    },
    "nested": {"model": {"state_dict": RAW}, "ema": {"module": EMA, "decay": 0.999}},
    "callbacks": {"state_dict": state(1, prefix="model."), "callbacks": {"EMA": {"ema_weights": EMA}}},
    "params_ema": {"params": RAW, "params_ema": EMA},
    "camel": {"model": RAW, "modelEMA": EMA},
    "swa": {"state_dict": RAW, "swa_state_dict": EMA},
    "rate in the name": {"model": RAW, "ema_0.9999": EMA},
    "list": [RAW, EMA],
    "tuple": (RAW, EMA),
    "list of wrapped": [{"model": RAW}, {"model": EMA}],
    "list, average first": [{"n_averaged": torch.tensor(3), **state(2, prefix="module.")}, RAW],
    "pair and options": ({"model": RAW, "ema": EMA}, {"lr": 0.1}),
    "student and teacher": {"student": RAW, "teacher": EMA},
    "compiled": {"model": state(1, prefix="_orig_mod."), "ema": EMA},
    "ema_model prefix": in_one_state(raw="online_model.", averaged="ema_model.", initted=torch.tensor(True)),
    "model_ema prefix": in_one_state(raw="model.", averaged="model_ema.", **{"model_ema.decay": torch.tensor(0.9)}),
    "ema prefix": in_one_state(raw="", averaged="ema."),
    "averaged in DataParallel": in_one_state(raw="module.model.", averaged="module.ema_model."),
    "mmengine": swapped_by_mmengine(),
    "mmcv": {"state_dict": dotless("ema_", 2, 1), "meta": {}},
    "lightning": {"state_dict": state(2), "current_model_state": state(1), "averaging_state": {}},
    "AveragedModel in a list of Lightning": {"state_dict": RAW, "callbacks": {"SWA": {"average_model_state": EMA}}},
    "names without dots": {
        "model": RAW,
        "ema": {name.replace(".", ""): value for name, value in EMA.items()},
    },
    "any prefix with ema": in_one_state(raw="network.", averaged="network_ema."),
    "module_ema prefix": in_one_state(raw="module.", averaged="module_ema."),
    "below the attribute of Lightning": {"state_dict": in_one_state(raw="model.net.", averaged="model.net_ema.")},
    "shadow below a prefix": in_one_state(raw="model.", averaged="ema.shadow."),
    "a counter tells": in_one_state(raw="base.", averaged="second.module.", **{"second.n_averaged": torch.tensor(3)}),
    "a counter beside bare names": in_one_state(raw="", averaged="b.", **{"b.num_updates": torch.tensor(3)}),
    "student and teacher prefix": in_one_state(raw="student.module.", averaged="teacher."),
    "mean teacher": {"model": RAW, "mean_teacher": EMA},
    "a number beside a state": {"model": RAW, "helper": {"decay": 0.99, "num_updates": 5, "module": EMA}},
    "a counter in a state": {"helper": {"initted": torch.tensor(True), **EMA}, "other": RAW},
}


@pytest.mark.parametrize("kind", BOTH)
def test_the_average_is_taken_and_said_and_the_other_can_be_chosen(kind):
    for wanted, value in ((None, 2), ("ema", 2), ("raw", 1)):
        found = choose_state(BOTH[kind], FILE, wanted)
        assert {float(tensor[0]) for tensor in found.state.values()} == {value}, wanted
        assert len(found.state) == len(NAMES)
        said = [note for note in found.notes if "(ema, " in note]
        assert len(said) == 1
        assert ("raw weights" if wanted == "raw" else "averaged weights") in said[0]
        assert "--checkpoint_weights raw" in said[0] or wanted == "raw"


ONE = {
    "bare": RAW,
    "state_dict": {"state_dict": RAW, "epoch": 1},
    "unknown name": {"whatever": RAW},
    "DataParallel": state(1, prefix="module."),
    "a decay beside": {"model": RAW, "ema_decay": 0.99},
    "the state of an optimiser": {"model": RAW, "ema_optimizer": {"exp_avg": torch.ones(1)}},
    "an average pool": {**RAW, "avg_pool.weight": torch.ones(2)},
    "an average of something else": {"model": RAW, "ema": {"centre": torch.ones(1)}},
    "a counter that is the run's": {"num_updates": 7, "model": RAW},
    "a counter in the part of the run": {"trainer": {"model": RAW, "num_updates": 7}},
    "an average pool of another network": in_one_state(raw="", averaged="avg_pool.", other=torch.ones(1))
    | {f"avg_pool.{name}": torch.ones(3) for name in NAMES},
    "two branches": in_one_state(raw="left.", averaged="right."),
    "alone in a list": [RAW],
    "with a number": (RAW, 7),
}


@pytest.mark.parametrize("kind", ONE)
def test_a_file_without_an_average_is_raw(kind):
    found = choose_state(ONE[kind], FILE)
    assert float(next(iter(found.state.values()))[0]) == 1
    assert not any("(ema" in note for note in found.notes)
    assert choose_state(ONE[kind], FILE, "raw").state.keys() == found.state.keys()
    with pytest.raises(UserError, match=r"--checkpoint_weights ema: x\.pth holds no averaged weights, only raw ones"):
        choose_state(ONE[kind], FILE, "ema")


ALONE = {
    "n_averaged": {"n_averaged": torch.tensor(4), **state(2, prefix="module.")},
    "state_dict_ema": {"state_dict_ema": EMA, "epoch": 3},
    "ema": {"ema": {"state_dict": EMA}},
    "prefix": state(2, prefix="ema_model."),
    "swa": {"swa": EMA, "optimizer": {}},
    "unknown prefix": state(2, prefix="my_ema."),
    "unknown prefix with a counter": {"x.n_averaged": torch.tensor(2), **state(2, prefix="x.")},
}


@pytest.mark.parametrize("kind", ALONE)
def test_an_average_alone_is_taken_and_said(kind):
    for wanted in (None, "ema"):
        found = choose_state(ALONE[kind], FILE, wanted)
        assert {float(tensor[0]) for tensor in found.state.values()} == {2}
        assert len(found.state) == len(NAMES)
        assert "averaged weights (ema, " in found.notes[0]
        assert "the only ones it holds" in found.notes[0]
    with pytest.raises(UserError, match=r"--checkpoint_weights raw: x\.pth holds no raw weights, only averaged ones"):
        choose_state(ALONE[kind], FILE, "raw")


def test_the_average_of_torch_is_read():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    average = AveragedModel(network)
    for value in network.parameters():
        value.data += 1
    average.update_parameters(network)
    found = choose_state({"model": network.state_dict(), "averaged": average.state_dict()}, FILE)
    assert torch.equal(found.state["0.weight"], average.module[0].weight)
    assert found.state.keys() == network.state_dict().keys()


def test_statistics_without_an_average_are_the_raw_ones_and_counted():
    average = {name: value for name, value in EMA.items() if "running" not in name}
    found = choose_state({"model": RAW, "ema": {"shadow": average}}, FILE)
    assert float(found.state["bn1.running_mean"][0]) == 1
    assert float(found.state["conv1.weight"][0]) == 2
    assert "1 tensors that have no average (bn1.running_mean, ...) are the raw ones" in found.notes


def test_an_average_without_names_is_that_of_the_parameters_in_order():
    shadow = [value for name, value in EMA.items() if "running" not in name]
    content = {"model": RAW, "ema": {"decay": 0.9, "num_updates": 3, "shadow_params": shadow}}
    found = choose_state(content, FILE)
    assert {name: float(value[0]) for name, value in found.state.items()} == {
        name: 1 if "running" in name else 2 for name in NAMES
    }
    assert "averaged weights (ema, ema.shadow_params) are used" in found.notes[0]
    assert float(choose_state(content, FILE, "raw").state["fc.weight"][0]) == 1


@pytest.mark.parametrize("shadow", [[torch.ones(2)] * 3, [torch.ones(3)] * 4])
def test_an_average_without_names_that_does_not_fit_is_said(shadow):
    content = {"model": RAW, "ema": {"shadow_params": shadow}}
    assert choose_state(content, FILE).notes == (
        "averaged weights without names (ema.shadow_params) do not fit and are not used",
    )


COUNTERS = {
    "thop": {
        "total_ops": torch.zeros(1),
        "layer1.total_ops": torch.zeros(1),
        "layer1.0.conv1.total_params": torch.ones(1),
    },
    "thop in DataParallel": {"module.total_ops": torch.zeros(1), "module.total_params": torch.zeros(1)},
    "double": {"total_ops": torch.zeros(1, dtype=torch.float64), "fc.total_ops": torch.tensor(3.0)},
    "ptflops": {"conv1.__flops__": 17, "conv1.__params__": 3, "__batch_counter__": 1},
    "torchstat": {"conv1.MAdd": torch.ones(1), "conv1.input_shape": torch.ones(3), "conv1.Memory": torch.ones(1)},
    "infinite": {"total_ops": torch.tensor([float("inf")])},
    "plain": {"flops": torch.tensor(7), "fc.macs": torch.tensor(8)},
}


@pytest.mark.parametrize("kind", COUNTERS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_counters_of_profilers_are_ignored_with_a_note(kind, wrapped):
    whole = {**COUNTERS[kind], **RAW}
    found = choose_state({"state_dict": whole} if wrapped else whole, FILE)
    assert found.state.keys() == RAW.keys()
    (note,) = found.notes
    assert note.startswith(f"{len(COUNTERS[kind])} counters of a profiler (")
    assert note.endswith(") are ignored")


def test_counters_beside_averages_are_ignored_in_both():
    counted = {"conv1.total_ops": torch.zeros(1)}
    content = {"model": {**RAW, **counted}, "model_ema": {**EMA, **counted}}
    for wanted in ("ema", "raw"):
        found = choose_state(content, FILE, wanted)
        assert found.state.keys() == RAW.keys()
        assert "1 counters of a profiler (total_ops) are ignored" in found.notes


def test_a_tensor_of_many_numbers_is_no_counter():
    assert "conv1.params" in choose_state({**RAW, "conv1.params": torch.ones(64)}, FILE).state


@pytest.mark.parametrize(
    "content",
    [{"a": RAW, "b": EMA}, [RAW, EMA, state(3)], {"f": {"w": RAW}, "g": {"w": EMA}}, ({"x": RAW, "y": EMA}, {"lr": 1})],
)
def test_networks_that_nothing_tells_apart_are_refused(content):
    with pytest.raises(
        UserError, match=r"x\.pth: holds [23] networks of the same tensors .* does not say which to score"
    ):
        choose_state(content, FILE)


def test_other_weights_that_are_not_used_are_named():
    found = choose_state({"model": RAW, "best": EMA}, FILE)
    assert float(found.state["fc.weight"][0]) == 1
    assert found.notes == ("weights under best are not used",)


def test_what_is_beside_the_weights_is_kept():
    found = choose_state(({"model": RAW, "epoch": 4, "ema": EMA}, {"lr": 0.1}), FILE, "raw")
    assert (found.metadata, found.form) == ({"lr": 0.1, "epoch": 4}, "tuple")
    assert choose_state({"state_dict": RAW, "meta": {"CLASSES": "ab"}}, FILE).metadata == {"meta": {"CLASSES": "ab"}}
    assert choose_state(RAW, FILE).form == "bare"
    assert choose_state([RAW, EMA], FILE).form == "bare"


def test_a_file_that_contains_itself_is_refused():
    content = {"a": {}}
    content["a"]["b"] = content
    with pytest.raises(UserError, match=r"x\.pth: no checkpoint, but a dictionary of other things"):
        choose_state(content, FILE)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "an empty dictionary"),
        ([1], "a list"),
        (None, "a NoneType"),
        ({1: torch.ones(1)}, "other things (1)"),
        ({"state_dict": {}}, "an empty dictionary"),
        ({"ema": {"decay": 0.1}}, "other things (ema)"),
        ({"total_ops": torch.ones(1)}, "an empty dictionary"),
        ({"optimizer": RAW}, "other things (optimizer)"),
    ],
)
def test_a_file_without_weights_is_refused_in_one_line(content, words):
    with pytest.raises(UserError) as error:
        choose_state(content, FILE)
    assert words in str(error.value)
    assert "not a state_dict" in str(error.value)
