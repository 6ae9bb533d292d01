"""The settings of a run that depend on each other, and the choice of a method by a flag."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import pytest

from engine.core import setting_table
from engine.core.settings import parse_settings
from engine.training import config as config_module
from engine.training.config import RunConfig, training_command
from models.heads import HEADS
from utils.checks import UserError
from utils.options import option


@dataclass(frozen=True, kw_only=True)
class First:
    shared: Literal["x", "y"] = option("x", "one meaning")
    only_first: int = option(1, "of the first", aliases=("also",))


@dataclass(frozen=True, kw_only=True)
class Second:
    shared: Literal["p", "q"] = option("p", "another meaning")
    also: bool = option(False, "of the second")


@pytest.fixture(autouse=True)
def methods(monkeypatch, tmp_path):
    """Two methods, whose settings collide, and a `configs/` of the test's own."""
    monkeypatch.setattr(setting_table, "CONFIGS", tmp_path / "configs")
    found = {"first": SimpleNamespace(config=First), "second": SimpleNamespace(config=Second)}
    monkeypatch.setattr(config_module, "CRITERIA", found)
    monkeypatch.setattr(config_module, "methods_of", lambda script: tuple(found))


def parse(*argv, script="main_x.py", method=""):
    return parse_settings(training_command(script, {}, method=method), argv)


@pytest.mark.parametrize("script, flag", [("main_x.py", "loss"), ("main_cls.py", "method")])
@pytest.mark.parametrize("argv", ["--{} second --epochs 3", "--epochs 3 --{}=second"])
def test_the_flag_chooses_wherever_it_stands(script, flag, argv):
    settings = parse(*argv.format(flag).split(), "--shared", "q", "--also", script=script)
    assert (settings.values[flag], settings.origins[flag]) == ("second", "command line")
    assert settings.method == "second"
    assert settings.method_config == Second(shared="q", also=True)
    assert "only_first" not in settings.values


def test_the_first_is_the_default_and_one_method_has_no_flag():
    assert parse().values["loss"] == "first"
    one = parse(method="second")
    assert one.method == "second"
    assert not {"loss", "method"} & one.values.keys()
    with pytest.raises(UserError, match="unknown flag --loss"):
        parse("--loss", "second", method="second")


def test_a_settings_file_chooses_and_the_command_line_wins(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("loss: second\nalso: true\nepochs: 7")
    for argv in ([str(file)], ["--config", str(file)], ["--config", str(file), "--epochs", "7"]):
        settings = parse(*argv)
        assert settings.values["loss"] == "second"
        assert settings.values["epochs"] == 7
    file.write_text("loss: second\nepochs: 7")
    assert parse(str(file), "--loss", "first", "--only_first", "4").method_config.only_first == 4


def test_settings_of_the_chosen_method_apply(tmp_path):
    for name in ("first", "second"):
        file = tmp_path / "configs" / name / "digits.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(f"epochs: {len(name)}")
    assert parse("--dataset", "digits").values["epochs"] == 5
    assert parse("--dataset", "digits", "--loss", "second").values["epochs"] == 6


def test_written_settings_choose_the_same_again(tmp_path):
    first = parse("--loss", "second", "--shared", "q")
    file = tmp_path / "settings.yaml"
    file.write_text(first.as_yaml("a run"))
    again = parse(str(file))
    assert again.values == first.values


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--loss", "secnd"], ["--loss 'secnd'", "first, second", "did you mean second"]),
        (["--loss", "second", "--only_first", "1"], ["unknown flag --only_first"]),
        (["--los", "second"], ["unknown flag --los", "did you mean --loss"]),
        (["--los", "second", "--loss", "first"], ["unknown flag --los"]),
        (["--shared", "q"], ["--shared 'q'", "x, y"]),
        (["--loss"], ["--loss"]),
        (["nowhere.yaml"], ["nowhere.yaml", "no such settings file"]),
        (["a.yaml", "--config", "b.yaml"], ["two settings files"]),
    ],
)
def test_mistakes_are_one_line(argv, words):
    with pytest.raises(UserError) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["loss: secnd", "loss: [first]"])
def test_mistakes_in_a_file_name_it(tmp_path, text):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"own\.yaml: loss"):
        parse(str(file))


def test_help_is_that_of_the_chosen_method(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help", "--loss", "second")
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert "--loss {first,second}" in printed
    assert "of the second" in printed
    assert "of the first" not in printed


def test_help_with_a_settings_file_is_that_of_the_method_in_it(capsys, tmp_path):
    (tmp_path / "own.yaml").write_text("loss: second")
    with pytest.raises(SystemExit):
        parse("--config", str(tmp_path / "own.yaml"), "--help")
    assert "of the second" in capsys.readouterr().out


@pytest.mark.parametrize("head, own", [("csra", {"lam", "num_heads", "boostlu"}), ("q2l", {"nheads", "hidden_dim"})])
def test_the_settings_of_the_chosen_head_alone_count(head, own, capsys):
    own_flag, other = ("--lam", "--nheads") if head == "csra" else ("--nheads", "--lam")
    settings = parse("--head", head, own_flag, "2", other, "4" if head == "csra" else "0.1")
    assert own <= settings.values.keys()
    assert isinstance(settings.head_config, HEADS[head].config)
    assert settings.values[own_flag.removeprefix("--")] == 2
    unused = "nheads" if head == "csra" else "lam"
    assert unused not in settings.values
    assert f"note: --{unused}: is of --head" in capsys.readouterr().err


def test_a_flag_without_which_it_would_be_another_experiment_is_refused_beside_other_heads():
    assert parse("--head", "csra", "--boostlu", "5").head_config.boostlu == 5
    with pytest.raises(UserError, match="--boostlu: is of --head linear and csra, but the head is gcn; leave the flag"):
        parse("--head", "gcn", "--boostlu", "5")
    with pytest.raises(UserError, match="--saliency: is of --head linear and csra, but the head is q2l; leave the"):
        parse("--head", "q2l", "--saliency", "0.5")


def test_a_settings_file_may_choose_the_head_and_hold_settings_of_others(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(
        "head: csra\nlam: 0.4\nnheads: 8\nwhen: [{nheads: 8, set: {lam: 9}}, {lam: 0.4, set: {num_heads: 4}}]"
    )
    settings = parse(str(file))
    assert (settings.head_config.lam, settings.head_config.num_heads) == (0.4, 4)
    with pytest.raises(UserError, match="--lam 'x': must be a number"):
        parse("--lam", "x")


@pytest.mark.parametrize(
    "settings, mode, frozen",
    [
        ({}, "end_to_end", 0),
        ({"train_mode": "linear_init", "linear_epochs": 4}, "linear_init", 4),
        ({"train_mode": "linear"}, "linear", 9),
        ({"train_mode": "linear_fixed_features"}, "linear_fixed_features", 9),
        ({"use_feats": True}, "linear_fixed_features", 9),
        ({"freeze_feature_extractor": True}, "linear", 9),
        ({"use_feats": True, "freeze_feature_extractor": True}, "linear_fixed_features", 9),
        ({"use_feats": True, "train_mode": "linear_fixed_features"}, "linear_fixed_features", 9),
        ({"freeze_feature_extractor": True, "train_mode": "linear_fixed_features"}, "linear_fixed_features", 9),
    ],
    ids=str,
)
def test_modes_and_their_published_spellings(settings, mode, frozen):
    config = RunConfig(epochs=9, **settings)
    assert (config.train_mode, config.frozen_epochs) == (mode, frozen)
    again = RunConfig(**vars(config))
    assert again == config, "what is written down resolves to itself"


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"train_mode": "linear_init", "linear_epochs": 9}, "--linear_epochs 9 .* --epochs 9"),
        ({"train_mode": "linear_init"}, "--linear_epochs 25 .* --epochs 9"),
        ({"linear_epochs": 0}, "--linear_epochs 0"),
        ({"use_feats": True, "train_mode": "end_to_end"}, "--use_feats and --train_mode end_to_end"),
        ({"use_feats": True, "train_mode": "linear"}, "--use_feats and --train_mode linear"),
        ({"freeze_feature_extractor": True, "train_mode": "linear_init"}, "--freeze_feature_extractor and"),
        ({"early_stop": -1.0}, "--early_stop -1.0"),
        ({"early_stop": 3.0, "selection": "last"}, "--early_stop: --selection last"),
        ({"early_stop": "first", "selection": "last"}, "--early_stop: --selection last"),
    ],
    ids=str,
)
def test_modes_that_contradict_themselves(settings, words):
    with pytest.raises(UserError, match=words):
        RunConfig(epochs=9, **settings)


def test_the_first_gpu_may_be_named_and_others_are_chosen_from_outside():
    assert parse("--gpu_num", "0").values["device"] == parse().values["device"]
    assert parse("--gpu_num", "0", "--device", "cpu").values["device"] == "cpu"
    with pytest.raises(UserError, match=r"gpu_num '1'.*CUDA_VISIBLE_DEVICES"):
        parse("--gpu_num", "1")


def test_other_accelerators_are_refused_by_name():
    with pytest.raises(UserError, match=r"^--device 'mps': must be one of auto, cpu, cuda$"):
        parse("--device", "mps")
