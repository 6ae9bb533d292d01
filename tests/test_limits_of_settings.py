"""Every number of a setting is held to the limits that its own message names: the last good value, and the next one."""

import dataclasses
import math
import re
import typing
from pathlib import Path

import pytest

from losses.cones import CoNeSConfig
from losses.curriculum import CurriculumConfig
from tools.tables import commands
from utils.checks import UserError
from utils.options import choices_of, kind_of

FAR = {"int": 10**12, "float": 1e12}
WITH = {
    "CoNeSConfig": {"memory_per_class": FAR["int"]},
    "CurriculumConfig": {"share_slope": -4.0, "share_bias": 5.0},
    "OptimConfig": {"warmup_epoch": 0.0, "scheduler": "cosine"},
    "PredictConfig": {"load_from": Path("best.pth")},
    "EPRConfig": {"expected_num_pos": 1.0},
    "ROLEConfig": {"expected_num_pos": 1.0},
    "GPRConfig": {"expected_num_pos": 1.0},
    "ScoreConfig": {"load_from": Path("best.pth")},
    "ShardConfig": {"shards": Path("out")},
    "SweepConfig": {"setting": "lr", "values": "1"},
}
"""Other settings of the same class that make the least values possible."""
UNLIMITED = {
    ("LargeLossConfig", "r0"),  # a logit
    ("DatasetConfig", "num_cls"),  # compared with the dataset's classes later
    *(("ScoreConfig", name) for name in ("lam", "nheads", "boostlu")),  # checked by the head of the checkpoint
    ("ScoreConfig", "seed"),  # checked by the dataset that is generated
}
OF_SEVERAL = {
    ("CurriculumConfig", "share_slope"),
    ("CurriculumConfig", "share_bias"),
    ("CoNeSConfig", "memory_per_class"),
    *((config, name) for config in ("SARBConfig", "HSTConfig") for name in ("prototypes", "prototype_memory")),
    ("CSRAConfig", "num_heads"),
    ("ScoreConfig", "num_heads"),
}
"""Numbers whose limit is another setting or a list: tested where they belong."""


class Limits(typing.NamedTuple):
    """An interval; `above` and `below` say that its ends are no part of it."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False


def limits_said(message):
    """The interval that a message names."""
    if found := re.search(r"in ([\[(])([\d.]+), ([\d.]+)([\])])", message):
        return Limits(float(found[2]), float(found[3]), found[1] == "(", found[4] == ")")
    if found := re.search(r"in (\d+) \.\. (2\^32 - 1|\d+)", message):
        return Limits(int(found[1]), 2**32 - 1 if "^" in found[2] else int(found[2]))
    if found := re.search(r"a (?:share|percentage), (\d+) to (below )?(\d+)", message):
        return Limits(float(found[1]), float(found[3]), below=bool(found[2]))
    if found := re.search(r"above ([\d.]+)(?:,| and)? ?(?:(below|at most) ([\d.]+))?", message):
        return Limits(float(found[1]), float(found[3] or math.inf), True, found[2] == "below")
    if found := re.search(r"(-1) \((?:none|all)\)|at least (\d+)|(\d+) or more", message):
        return Limits(float(next(filter(None, found.groups()))))
    if re.search(r"between 0 and 1", message):
        return Limits(0.0, 1.0, *(2 * ["--ema" in message]))
    if re.search(r"not (be )?negative", message):
        return Limits(0.0)
    found = re.search(r"must be (\d) or (\d)", message)
    return Limits(float(found[1]), float(found[2]))


def config_classes():
    every = commands()
    groups = [shared for command in every for shared in command.groups.values()]
    held = {config for shared in groups for config in shared}
    held |= {config for command in every for each in (command.methods, command.heads) for config in each.values()}
    return sorted(held, key=lambda config: config.__name__)


def numbers():
    """Every setting that is one number: its class, name and kind."""
    for config in config_classes():
        hints = typing.get_type_hints(config)
        for field in dataclasses.fields(config):
            kind = kind_of(hints[field.name], field.metadata.get("choices", ())).removesuffix("?")
            if kind in FAR and (config.__name__, field.name) not in OF_SEVERAL:
                yield pytest.param(config, field.name, kind, id=f"{config.__name__}-{field.name}")


def refusal(config, name, value):
    """What the class says to a value of one of its settings; None where it takes it."""
    try:
        config(**{**WITH.get(config.__name__, {}), name: value})
    except UserError as error:
        return str(error)
    return None


def good_and_bad(limit, is_open, outwards, kind):
    """The last good value before a limit, and the first bad one."""
    step = (lambda value, way: value + int(way)) if kind == "int" else (lambda value, way: math.nextafter(value, way))
    far = outwards if kind == "int" else outwards * math.inf
    limit = int(limit) if kind == "int" else float(limit)
    return (step(limit, -far), limit) if is_open else (limit, step(limit, far))


@pytest.mark.parametrize(("config", "name", "kind"), list(numbers()))
def test_the_limits_are_those_that_the_message_names(config, name, kind):
    said = refusal(config, name, -FAR[kind])
    if (config.__name__, name) in UNLIMITED:
        assert said is None
        return
    limits = limits_said(said)
    good, bad = good_and_bad(limits.least, limits.above, -1, kind)
    assert refusal(config, name, good) is None
    message = refusal(config, name, bad)
    assert limits_said(message) == limits
    assert re.search(rf"\b{name.replace('_', '[_ ]')}\b.*{re.escape(str(bad))}", message)
    if limits.most < math.inf:
        good, bad = good_and_bad(limits.most, limits.below, 1, kind)
        assert refusal(config, name, good) is None
        assert limits_said(refusal(config, name, bad)) == limits
    else:
        assert refusal(config, name, FAR[kind] if name != "warmup_epoch" else 4.0) is None


FLOATS = [setting for setting in numbers() if setting.values[2] == "float"]


@pytest.mark.parametrize(("config", "name", "kind"), FLOATS)
def test_what_is_no_number_is_refused_and_methods_refuse_what_is_endless(config, name, kind):
    if config.__name__ == "ScoreConfig":
        return
    assert name.replace("_", " ") in refusal(config, name, math.nan).replace("_", " ")
    endless = refusal(config, name, math.inf)
    if config.__module__.startswith(("losses.", "models.")) and name != "estimator_lr_mult":
        assert "inf" in endless


@pytest.mark.parametrize(("slope", "bias"), [(-4.0, 4.0), (4.0, 0.0), (4.0, -1.0)])
def test_the_weights_of_the_curriculum_stay_above_0_at_both_ends(slope, bias):
    least = min(bias, bias + slope)
    with pytest.raises(UserError, match=re.escape(f"a weight would be {least:g}, it must stay above 0")):
        CurriculumConfig(share_slope=slope, share_bias=bias)
    CurriculumConfig(share_slope=slope, share_bias=bias - least + 1e-9)


def test_a_memory_of_a_class_holds_its_clusters():
    CoNeSConfig(clusters=3, memory_per_class=3)
    with pytest.raises(UserError, match=re.escape("memory_per_class (2) must not be below clusters (3)")):
        CoNeSConfig(clusters=3, memory_per_class=2)


def choices():
    """Every setting of a method or a head that has a list of values: its class, name and values."""
    for config in config_classes():
        if config.__module__.startswith(("losses.", "models.heads.")):
            for name, hint in typing.get_type_hints(config).items():
                if values := choices_of(hint):
                    yield pytest.param(config, name, values, id=f"{config.__name__}-{name}")


@pytest.mark.parametrize(("config", "name", "values"), list(choices()))
def test_a_choice_is_one_of_its_values_and_anything_else_is_refused_with_all_of_them(config, name, values):
    message = refusal(config, name, "neither")
    assert message.startswith(f"--{name} neither: ")
    assert re.search(f"{', '.join(values)}$|{' or '.join(values)}$", message)
    for value in values:
        if (config.__name__, value) != ("NDLPConfig", "by_batch"):
            assert refusal(config, name, value) is None


def extended():
    """Each class of settings that checks them itself, and a class it extends that does so too."""
    for config in config_classes():
        checking = [each for each in config.__mro__ if "__post_init__" in vars(each)]
        for base in checking[1:] if checking[:1] == [config] else ():
            yield pytest.param(config, base, id=f"{config.__name__}-{base.__name__}")


@pytest.mark.parametrize(("config", "base"), list(extended()))
def test_a_class_with_checks_of_its_own_makes_those_of_the_class_that_it_extends(config, base, monkeypatch):
    checked, check = [], base.__post_init__
    monkeypatch.setattr(base, "__post_init__", lambda self: checked.append(type(self)) or check(self))
    config(**WITH.get(config.__name__, {}))
    assert checked == [config]
