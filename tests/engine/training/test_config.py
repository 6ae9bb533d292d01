"""The settings of a run that depend on each other, and the choice of a method by a flag."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import pytest

from engine.core import settings as settings_module
from engine.core.settings import parse_settings, setting_table
from engine.training import config as config_module
from engine.training.config import CHOICES, TRAINING_CONFIGS, RunConfig, choice_config, training_sections
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
    monkeypatch.setattr(settings_module, "CONFIGS", tmp_path / "configs")
    found = {"first": SimpleNamespace(config=First), "second": SimpleNamespace(config=Second)}
    monkeypatch.setattr(config_module, "CRITERIA", found)


def choose(*argv, methods=("first", "second"), flag="loss"):
    return training_sections(methods, argv, program="main_x.py", flag=flag)


def parse(*argv, flag="loss"):
    method, sections = choose(*argv, flag=flag)
    return parse_settings(sections, argv, program="main_x.py", defaults={}, method=method)


@pytest.mark.parametrize("flag", sorted(CHOICES))
@pytest.mark.parametrize("argv", ["--{} second --epochs 3", "--epochs 3 --{}=second"])
def test_the_flag_chooses_wherever_it_stands(flag, argv):
    settings = parse(*argv.format(flag).split(), "--shared", "q", "--also", flag=flag)
    assert (settings.values[flag], settings.origins[flag]) == ("second", "command line")
    assert settings.sections["second"] == Second(shared="q", also=True)
    assert "first" not in settings.sections
    assert "only_first" not in settings.values


def test_the_first_is_the_default_and_one_method_has_no_flag():
    assert parse().values["loss"] == "first"
    method, sections = choose("--loss", "second", methods="second")
    assert method == "second"
    assert not CHOICES & setting_table(sections).keys()


def test_a_settings_file_chooses_and_the_command_line_wins(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("loss: second\nalso: true\nepochs: 7")
    for argv in ([str(file)], ["--config", str(file)], ["--config", str(file), "--epochs", "7"]):
        settings = parse(*argv)
        assert settings.values["loss"] == "second"
        assert settings.values["epochs"] == 7
    file.write_text("loss: second\nepochs: 7")
    assert parse(str(file), "--loss", "first", "--only_first", "4").sections["first"].only_first == 4


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
    said = capsys.readouterr().out
    assert "--loss {first,second}" in said
    assert "of the second" in said
    assert "of the first" not in said


def test_help_with_a_settings_file_is_that_of_the_method_in_it(capsys, tmp_path):
    (tmp_path / "own.yaml").write_text("loss: second")
    with pytest.raises(SystemExit):
        parse("--config", str(tmp_path / "own.yaml"), "--help")
    assert "of the second" in capsys.readouterr().out


def test_other_commands_know_the_flags_of_choices():
    known = {name for config in TRAINING_CONFIGS for name in setting_table({"": config})}
    assert known >= CHOICES
    assert setting_table({"": choice_config(("u", "v"), "loss")})["loss"].choices == ("u", "v")


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
