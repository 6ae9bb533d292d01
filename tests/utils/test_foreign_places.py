"""Where weights lie in files of other people's codes: which of several are taken, and what is said, to the limits."""

import pytest
import torch

from tests.utils.test_foreign_states import EMA, FILE, NAMES, RAW, dotless, in_one_state, state
from utils.checks import UserError
from utils.foreign_states import choose_state


def value_of(found):
    """The one value of all tensors of a state."""
    (value,) = {float(tensor[0]) for tensor in found.state.values()}
    return value


def refusal(content, *more):
    with pytest.raises(UserError) as error:
        choose_state(content, FILE, *more)
    return str(error.value)


def within(*keys, held):
    """Dictionaries in dictionaries around what they hold."""
    for key in reversed(keys):
        held = {key: held}
    return held


def test_weights_are_looked_for_four_levels_deep_and_no_deeper():
    assert value_of(choose_state(within(*"abcd", held=RAW), FILE)) == 1
    assert "other things (a)" in refusal(within(*"abcde", held=RAW))
    shadow = [value for name, value in EMA.items() if "running" not in name]
    near, far = (within(*keys, "ema", held=shadow) for keys in ("abc", "abcd"))
    assert "(ema, a.b.c.ema)" in choose_state({"model": RAW, **near}, FILE).notes[0]
    assert choose_state({"model": RAW, **far}, FILE).notes == ()


def test_of_a_list_the_first_64_entries_that_may_hold_weights_are_looked_at():
    nothing = [{"lr": 0.1}]
    assert value_of(choose_state([*(7,) * 100, *nothing * 63, RAW], FILE)) == 1
    assert "a list" in refusal([*nothing * 64, RAW])


@pytest.mark.parametrize("content", [within("loss", "net", held=RAW), within("net", "loss", held=RAW)])
def test_what_lies_below_an_optimiser_or_a_loss_is_no_network(content):
    refusal(content)


NETWORKS = {
    "a network that is known": ({"model": state(2, NAMES[:1]), "other": RAW}, lambda found: len(found)),
    "a preferred name": ({"network": state(2), "state_dict": RAW, "z": state(3)}, lambda found: 0),
    "a preferred name at any level": ({"model": state(2), "network": {"state_dict": RAW}}, lambda found: 0),
    "the larger one": ({"a": state(2, NAMES[:2]), "b": RAW, "c": state(3, NAMES[:4])}, lambda found: 0),
    "the first of averages": ({"ema": RAW, "swa": state(2)}, lambda found: 0),
    "an average that is known": ({"ema": state(2, NAMES[:3]), "swa": RAW}, lambda found: "fc.weight" in found),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_of_several_networks_one_is_taken_by_the_rules(kind):
    content, likeness = NETWORKS[kind]
    assert value_of(choose_state(content, FILE, likeness=likeness)) == 1


def test_parts_and_other_networks_are_not_mentioned_and_twins_are():
    content = {"model": RAW, "part": state(2, NAMES[:3]), "more": state(2, [*NAMES[1:], "x"]), "last": EMA}
    assert choose_state(content, FILE).notes == ("weights under last are not used",)
    many = {"model": RAW, **{f"m{k}": EMA for k in range(8)}}
    assert choose_state(many, FILE).notes == ("weights under m0, m1, m2, m3, m4, m5 are not used",)


def test_other_averages_and_twins_beside_the_average_are_named_too():
    content = {"best": state(4), "model": RAW, "ema": EMA, "swa": state(3), "ema2": state(5)}
    found = choose_state(content, FILE)
    assert value_of(found) == 2
    assert found.notes[1:] == ("weights under swa, ema2, best are not used",)
    alone = choose_state({"ema": EMA, "swa": state(3), "swa2": state(4)}, FILE)
    assert alone.notes[1:] == ("weights under swa, swa2 are not used",)
    prefixes = {name: state(value, prefix="ema_model.") for name, value in (("a", 2), ("b", 3))}
    assert choose_state(prefixes, FILE).notes[1:] == ("weights under b are not used",)


@pytest.mark.parametrize(("strange", "taken"), [(0, 2), (2, 2), (3, 1)])
def test_an_average_must_share_half_of_its_names_with_the_network(strange, taken):
    average = state(2, [*NAMES[:2], *(f"x{k}" for k in range(strange))])
    found = choose_state({"model": RAW, "ema": average}, FILE)
    assert found.state["conv1.weight"][0] == taken
    assert ("weights under ema are not used" in found.notes) == (taken == 1)
    inside = choose_state({**RAW, **{f"ema.{name}": value for name, value in average.items()}}, FILE)
    assert inside.state["conv1.weight"][0] == taken
    assert any("(ema, ema)" in note for note in inside.notes) == (taken == 2)


def test_a_teacher_is_an_average_only_beside_a_student_of_its_network():
    found = choose_state({"model": RAW, "my_teacher": EMA}, FILE)
    assert (value_of(found), found.notes) == (1, ("weights under my_teacher are not used",))
    assert "no averaged weights" in refusal({"student": RAW, "teacher": {**EMA, "centre": torch.ones(2)}}, "ema")
    larger = {**RAW, "more.weight": torch.ones(2)}
    assert choose_state({"student": larger, "teacher": EMA}, FILE, "ema").state["fc.weight"][0] == 2


def test_networks_of_one_preference_are_refused_and_six_are_named():
    assert refusal({"model": {"a": RAW, "b": EMA}, "x": state(3)}) == (
        "x.pth: holds 3 networks of the same tensors (model.a, model.b, x) and does not say which to score; save one "
        "of them in a file of its own"
    )
    assert "holds 8 networks of the same tensors (no. 1, no. 2, no. 3, no. 4, no. 5, no. 6) " in refusal(
        [RAW] * 1 + [state(k) for k in range(7)]
    )


def test_of_two_in_a_list_the_second_is_the_average_by_number_whatever_their_names():
    for content in ([{"x": RAW}, {"model": EMA}], [*(0,) * 8, RAW, EMA]):
        found = choose_state(content, FILE)
        assert value_of(found) == 2
        assert found.notes[1] == (
            "two networks in a list, which does not say which is which: the second is taken for the average (ema)"
        )


SAID = [
    ({"model": RAW, "ema": EMA}, "ema", "ema", "model"),
    ([{"net": RAW, "model_ema": EMA}, {}], "no. 1.model_ema", "no. 1.model_ema", "no. 1.net"),
    (in_one_state(raw="", averaged="ema."), "ema", "ema", "the file"),
]


@pytest.mark.parametrize(("content", "averaged", "named", "raw"), SAID)
def test_what_is_said_of_a_choice_names_both_places(content, averaged, named, raw):
    used = f"averaged weights (ema, {averaged}) are used"
    assert choose_state(content, FILE).notes == (
        f"{used}, as for most reported figures; --checkpoint_weights raw takes those of {raw}",
    )
    assert choose_state(content, FILE, "ema").notes == (
        f"{used}, as asked for; --checkpoint_weights raw takes those of {raw}",
    )
    assert choose_state(content, FILE, "raw").notes == (
        f"raw weights ({raw}) are used, as asked for; it holds averaged ones (ema, {named}) too",
    )


def test_an_average_alone_in_a_file_is_said_to_be_the_file():
    note = "averaged weights (ema, the file) are used, the only ones it holds"
    assert choose_state(state(2, prefix="ema_model."), FILE).notes == (note,)


def test_names_of_counters_are_said_once_each_in_order():
    counted = {"b.total_params": torch.ones(1), "a.total_ops": torch.ones(1), "total_ops": torch.ones(1)}
    expected = ("3 counters of a profiler (total_ops, total_params) are ignored",)
    assert choose_state({**RAW, **counted}, FILE).notes == expected
    whole = {"model": RAW, "ema": {"n_averaged": torch.tensor(3), **EMA}}
    assert not any("counters" in note for note in choose_state(whole, FILE).notes)


def test_only_mmengines_entry_with_its_steps_is_exchanged():
    steps = {"steps": torch.tensor(9)}
    for content in ({"state_dict": RAW, "ema": {**EMA, **steps}}, {"state_dict": RAW, "ema_state_dict": EMA}):
        assert value_of(choose_state(content, FILE)) == 2
    swapped = {"x": {"state_dict": EMA, "ema_state_dict": {**RAW, **steps}, "best": state(3)}}
    found = choose_state(swapped, FILE)
    assert (value_of(found), found.notes[1:]) == (2, ("weights under x.best are not used",))


def test_the_current_weights_of_lightning_are_raw_wherever_they_are():
    held = {"state_dict": EMA, "current_model_state": RAW}
    for content in (held, {"run": held}, {"current": {"run": held}}):
        assert [value_of(choose_state(content, FILE, wanted)) for wanted in (None, "ema", "raw")] == [2, 2, 1]


def test_only_tensors_that_somebody_would_miss_are_counted_where_an_average_lacks_them():
    raw = {**RAW, "bn1.num_batches_tracked": torch.ones(2)}
    found = choose_state({"model": raw, "ema": EMA}, FILE)
    assert len(found.notes) == 1
    assert found.state.keys() == raw.keys()
    fewer = choose_state({"model": raw, "ema": state(2, [NAMES[0], *NAMES[3:]])}, FILE)
    assert fewer.notes[1:] == ("2 tensors that have no average (bn1.weight, ...) are the raw ones",)


def test_of_averages_without_names_the_first_counts_and_none_where_there_is_one_with_names():
    shadow = [value for name, value in EMA.items() if "running" not in name]
    content = {"model": RAW, "ema": {"collected": shadow}, "swa": [torch.ones(9)]}
    assert "(ema, ema.collected)" in choose_state(content, FILE).notes[0]
    assert "(ema, ema)" in choose_state({"swa": [torch.ones(9)], "model": RAW, "ema": EMA}, FILE).notes[0]
    assert len(choose_state({"swa": [torch.ones(9)], "model": RAW, "ema": EMA}, FILE).notes) == 1
    for other in ({"ema": {"shadow": []}}, {"history": [torch.ones(2)]}, {"ema": [1, torch.ones(2)]}):
        assert choose_state({"model": RAW, **other}, FILE).notes == ()


BESIDE = [
    (within("run", held={"model": RAW, "ema": EMA, "lr": 1}) | {"epoch": 3}, {"epoch": 3, "lr": 1}, "dict"),
    ({"epoch": 3, 7: 8, "x": {"model": {"net": RAW, "y": 2}, "ema": EMA}}, {"epoch": 3, 7: 8, "y": 2}, "dict"),
    ([{"model": RAW, "epoch": 4}, {"model": EMA, "epoch": 9}], {"epoch": 4}, "bare"),
    ((RAW, {"lr": 0.1}, {"seed": 2}, [1]), {"lr": 0.1, "seed": 2}, "tuple"),
    ((RAW, 7, [1]), {}, "bare"),
    ({"state_dict": dotless("ema_", 2, 1), "meta": 5}, {"meta": 5}, "dict"),
    (dotless("ema_", 2, 1), {}, "bare"),
    (in_one_state(raw="", averaged="ema."), {}, "bare"),
]


@pytest.mark.parametrize(("content", "metadata", "form"), BESIDE)
def test_what_is_beside_weights_at_any_level_is_kept_and_no_weights(content, metadata, form):
    found = choose_state(content, FILE)
    assert (found.metadata, found.form) == (metadata, form)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "a NoneType"),
        ({"a": 1, "b": 2, "c": 3}, "a dictionary of other things (a, b, c)"),
        ({"a": 1, "b": 2, "w": torch.ones(9), 3: torch.ones(9), "d": 4}, "a dictionary of other things (a, b, 3, ...)"),
        ({"n" * 50: 1}, f"a dictionary of other things ({'n' * 40})"),
        ({"model": {"x": 1}, "state_dict": {"y": 2}}, "a dictionary of other things (y)"),
        ({"state_dict": 3}, "a dictionary of other things (state_dict)"),
    ],
)
def test_what_a_file_holds_instead_of_weights_is_said(content, words):
    assert refusal(content) == (
        f"x.pth: no checkpoint, but {words}, not a state_dict: names with a tensor each are needed"
    )
