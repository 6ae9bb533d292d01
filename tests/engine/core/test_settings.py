import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from engine.core import setting_table
from engine.core.settings import Command, Request, parse_settings
from engine.core.settings_files import SettingsLayer
from utils.checks import UserError, require
from utils.options import option


@dataclass(frozen=True, kw_only=True)
class Data:
    dataset: str = option("digits", "dataset", synonyms={"numbers": "digits"})
    partial_rate: float = option(0.1, "rate")
    seed: int = option(0, "seed", common=True)
    folder: Path | None = option(None, "folder")
    batch_size: int = option(16, "images", aliases=("bsize",))
    table: tuple[Path, ...] | None = option(None, "tables", aliases=("labels_file",))

    def __post_init__(self):
        require(0 <= self.partial_rate <= 1, f"--partial_rate {self.partial_rate}: must be in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class Method:
    beta: float = option(0.1, "weight")
    mode: Literal["linear", "deep"] = option("linear", "mode")
    fast: bool = option(False, "speed", implies={"mode": "deep", "elsewhere": "1"})
    steps: tuple[int, ...] = option((1, 2), "a schedule")


GROUPS = {"data": (Data,), "method": (Method,)}


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A `configs/` of the test's own: write(name, text) adds a file to it."""
    monkeypatch.setattr(setting_table, "CONFIGS", tmp_path / "configs")

    def write(name, text):
        file = tmp_path / "configs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


def command(defaults=None, method=None):
    """A command, of one method where its folder of settings files is to apply."""
    if method is None:
        return Command(program="main_x.py", about="A test.", groups=GROUPS, defaults=defaults or {})
    groups = {"data": (Data,)}
    return Command(
        program="main_x.py", about="A test.", groups=groups, defaults=defaults or {}, methods={method: Method}
    )


def parse(*argv, defaults=None, method=None, **kwargs):
    return parse_settings(command(defaults, method), argv, **kwargs)


def test_what_a_method_says_of_every_dataset_stands_between_the_datasets_own_and_its_own(configs):
    configs("datasets/digits.yaml", "beta: 1\nseed: 1\nbatch_size: 1")
    every = configs("m/every.yaml", "beta: 2\nseed: 2")
    configs("m/digits.yaml", "beta: 3")
    settings = parse(method="m")
    assert [settings.values[name] for name in ("beta", "seed", "batch_size")] == [3, 2, 1]
    assert settings.origins["seed"] == f"configs/m/{every.name}"


def test_layers_win_in_the_stated_order_wherever_the_flag_stands(configs):
    configs("datasets/digits.yaml", "beta: 1\nseed: 1\npartial_rate: .1\nbatch_size: 1")
    configs("m/digits.yaml", "beta: 2\nseed: 2\npartial_rate: .2")
    own = configs("../own.yaml", "beta: 3\nseed: 3").resolve()
    for argv in (["--beta", "4", "--config", str(own)], ["--config", str(own), "--beta", "4"], [str(own), "--beta=4"]):
        got = parse(*argv, method="m", defaults={"folder": Path("x")})
        assert got.method_config.beta == 4
        assert got.of(Data) == Data(partial_rate=0.2, seed=3, batch_size=1, folder=Path("x"))
        assert got.origins["beta"] == "command line"
        assert got.origins["seed"] == own.name
        assert got.origins["partial_rate"] == "configs/m/digits.yaml"
        assert got.origins["batch_size"] == "configs/datasets/digits.yaml"
        assert got.origins["folder"] == "main_x.py"
        assert got.origins["mode"] == "default"


def test_dataset_on_the_command_line_decides_which_files_apply(configs):
    configs("datasets/digits.yaml", "beta: 1")
    configs("datasets/other.yaml", "beta: 5")
    assert parse("--dataset", "other").values["beta"] == 5
    own = configs("own.yaml", "dataset: other")
    assert parse("--config", str(own)).values["beta"] == 5


def test_when_blocks_see_the_final_values_of_their_conditions(configs):
    configs("m/digits.yaml", "beta: 1\nwhen:\n  - {partial_rate: 0.40, set: {beta: 7, seed: 9}}")
    assert parse(method="m").values["beta"] == 1
    got = parse("--partial_rate", ".4", method="m")
    assert (got.values["beta"], got.values["seed"]) == (7, 9)
    assert got.origins["beta"] == "configs/m/digits.yaml when partial_rate=0.4"
    assert parse("--partial_rate", ".4", "--beta", "2", method="m").values["beta"] == 2


def test_conditions_go_by_what_another_setting_implies_unless_it_is_said(configs):
    configs("m/digits.yaml", "when:\n  - {mode: deep, set: {beta: 7}}")
    got = parse("--fast", method="m")
    assert (got.values["beta"], got.values["mode"]) == (7, "linear")  # the value itself is the method's own affair
    assert parse(method="m").values["beta"] == 0.1
    assert parse("--mode", "deep", method="m").values["beta"] == 7
    configs("m/digits.yaml", "mode: deep\nwhen:\n  - {mode: linear, set: {beta: 7}}")
    assert parse("--fast", method="m").values["beta"] == 0.1


@pytest.mark.parametrize("text, value", [("1e-5", 1e-5), ("010", 10.0), ("2", 2.0), (".5", 0.5)])
def test_yaml_numbers_mean_what_the_flag_makes_of_them(configs, text, value):
    assert parse("--config", str(configs("own.yaml", f"beta: {text}"))).values["beta"] == value


def test_yaml_no_is_text_where_text_is_wanted(configs):
    assert parse("--config", str(configs("own.yaml", "dataset: no"))).values["dataset"] == "no"


@pytest.mark.parametrize(
    "argv, value",
    [(["--fast"], True), (["--no-fast"], False), (["--fast", "False"], False), (["--fast=True"], True), ([], False)],
)
def test_one_parser_for_every_spelling_of_a_switch(configs, argv, value):
    assert parse(*argv).values["fast"] is value


def test_a_file_for_one_dataset_is_refused_for_another(configs):
    file = str(configs("own.yaml", "dataset: numbers\nbeta: 0.25"))
    assert parse(file, "--dataset", "digits").values["beta"] == 0.25  # `numbers` is a synonym of it
    with pytest.raises(UserError, match=r"own.yaml is for dataset digits, but --dataset says letters"):
        parse(file, "--dataset", "letters")


def test_a_published_file_rules_over_the_command_line_and_says_so(configs, capsys):
    file = str(configs("own.yaml", "dataset: digits\nbeta: 0.25\nseed: 4\nrules: [dataset, beta]"))
    got = parse(file, "--dataset", "letters", "--beta", "3", "--seed", "5")
    assert [got.values[name] for name in ("dataset", "beta", "seed")] == ["digits", 0.25, 5]
    dataset, beta = capsys.readouterr().err.splitlines()
    assert dataset.startswith("note: --dataset letters: ")
    assert "own.yaml says beta 0.25 and rules, as in the published code; for another one leave" in beta
    parse(file, "--dataset", "digits", "--beta", ".25")
    assert capsys.readouterr().err == ""
    for text in ("rules: beta", "rules: [beta]", "beta: 1\nrules: [{beta: 1}]"):
        with pytest.raises(UserError, match="`rules:` must be a list of settings that the file sets"):
            parse(str(configs("odd.yaml", text)))


def test_a_file_adds_to_another_under_the_script_it_says(configs):
    configs("base.yaml", "beta: 0.5\nseed: 3")
    program = command().program
    file = str(configs("own.yaml", f"seed: 4\nscripts: {{{program}: base.yaml, other.py: missing.yaml}}"))
    got = parse(file)
    assert (got.values["beta"], got.values["seed"]) == (0.5, 4)
    assert got.origins["beta"].endswith("base.yaml")
    with pytest.raises(UserError, match="`scripts:` must name a settings file for each script"):
        parse(str(configs("odd.yaml", "scripts: base.yaml")))


def test_a_python_file_stands_for_the_yaml_beside_it(configs, capsys):
    file = configs("own.yaml", "beta: 0.5").with_suffix(".py")
    assert parse(str(file)).values["beta"] == 0.5
    assert (
        capsys.readouterr().err
        == f"note: {file}: no .py is run here; its settings are those of {file.with_suffix('.yaml')}\n"
    )


def test_aliases_are_the_same_setting(configs):
    assert parse("--bsize", "8").values["batch_size"] == 8
    file = configs("own.yaml", "bsize: 8\nbatch_size: 9")
    with pytest.raises(UserError, match="another spelling"):
        parse("--config", str(file))


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--partial_rat", "0.1"], ["unknown flag --partial_rat", "did you mean --partial_rate?"]),
        (["--partial_rate", "many"], ["--partial_rate 'many'", "must be a number"]),
        (["--partial_rate", "nan"], ["finite"]),
        (["--partial_rate", "1.5"], ["--partial_rate 1.5", r"must be in \[0, 1\]"]),
        (["--seed", "1.5"], ["--seed '1.5'", "whole number"]),
        (["--mode", "linaer"], ["--mode 'linaer'", "linear, deep", "did you mean linear"]),
        (["--fast", "maybe"], ["True or False"]),
        (["--beta"], ["--beta"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml", "no such settings file"]),
        (["a.yaml", "--config", "b.yaml"], ["two settings files"]),
        (["configs/own/a.py"], ["configs/own/a.py", "give configs/own/a.yaml"]),
        (["--config", "b.py"], ["give b.yaml"]),
        (["--see", "3"], ["unknown flag --see"]),
        (["--method_weight", "3"], ["unknown flag --method_weight"]),
        (["--steps", "1,x"], ["--steps", "whole number"]),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(configs, argv, words):
    with pytest.raises(UserError) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)
    for word in words:
        assert caught.match(word)


@pytest.mark.parametrize(
    "text, words",
    [
        ("betta: 1", "unknown setting 'betta'; did you mean beta"),
        ("beta: [1, 2]", "single value"),
        ("beta: x", "must be a number"),
        ("beta: 1\nbeta: 2", "given twice"),
        ("- beta", "name: value"),
        ("beta: {", "YAML"),
        ("when: 3", "list of blocks"),
        ("when: [{beta: 1}]", "set"),
        ("seed: 1\nwhen: [{nothing: 1, set: {beta: 1}}]", "nothing"),
    ],
)
def test_mistakes_in_a_file_name_it_and_the_key(configs, text, words):
    file = configs("own.yaml", text)
    with pytest.raises(UserError, match=words) as caught:
        parse("--config", str(file))
    assert file.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keys_of_other_commands_pass_without_effect_only_where_allowed(configs):
    configs("datasets/digits.yaml", "epochs: 5\nwhen: [{epochs: 5, set: {beta: 3}}, {seed: 0, set: {epochs: 1}}]")
    with pytest.raises(UserError, match="epochs"):
        parse()
    assert "epochs" not in parse(elsewhere=frozenset({"epochs"})).values


def test_a_recorded_layer_beats_files_but_not_the_command_line(configs):
    configs("datasets/digits.yaml", "beta: 1\nseed: 1")
    request = Request(command().table(), ["--seed", "2"])
    assert request.first()["seed"] == 2
    assert "beta" in request.table
    got = parse(request=request, recorded=SettingsLayer("file.pth", {"beta": 5.0, "seed": 5}))
    assert (got.values["beta"], got.values["seed"]) == (5, 2)
    assert got.origins["beta"] == "file.pth"


@pytest.mark.parametrize("words", [["--steps", "-2,-1,3"], ["--steps=-2,-1,3"], ["--steps", "-2 -1 3"]])
def test_a_list_may_begin_with_a_minus(configs, words):
    assert parse(*words).values["steps"] == (-2, -1, 3)


@pytest.mark.parametrize("text", ["-2,-1", "[-2, -1]", "-2 -1"])
def test_a_list_in_a_file_is_a_list_or_a_text(configs, text):
    got = parse("--config", str(configs("own.yaml", f"steps: {text}")))
    assert got.values["steps"] == (-2, -1)


@pytest.mark.parametrize(
    ("words", "tables", "seed"),
    [
        (["--table", "a.csv"], ["a.csv"], 0),
        (["--table", "my, own.csv"], ["my, own.csv"], 0),
        (["--table", "a.csv", "b c.csv", "d,e.csv"], ["a.csv", "b c.csv", "d,e.csv"], 0),
        (["--table=a.csv", "b.csv"], ["a.csv", "b.csv"], 0),
        (["--labels_file", "a.csv", "b.csv", "--seed", "2"], ["a.csv", "b.csv"], 2),
        (["--seed", "2", "--table", "a.csv", "b.csv"], ["a.csv", "b.csv"], 2),
        (["--table", "a.csv", "b.csv", "own.yaml"], ["a.csv", "b.csv"], 7),
        (["--table", "a.csv", "own.yaml"], ["a.csv"], 7),
        (["own.yaml", "--table", "a.csv", "b.csv"], ["a.csv", "b.csv"], 7),
        (["--table", "a.csv", "b.csv", "--config", "own.yaml"], ["a.csv", "b.csv"], 7),
        (["--table", "a.csv", "b.csv", "--beta", "3", "own.yaml"], ["a.csv", "b.csv"], 7),
        (["--table", "a.csv", "--table", "b.csv", "c.csv"], ["b.csv", "c.csv"], 0),
        (["--table", "tables.yaml", "--seed", "2"], ["tables.yaml"], 2),
        (["own.yaml"], ["x.csv", "y.csv"], 7),
    ],
)
def test_several_words_behind_a_flag_of_paths_are_its_paths(configs, monkeypatch, words, tables, seed):
    monkeypatch.chdir(configs("own.yaml", "seed: 7\ntable: [x.csv, y.csv]\n").parent)
    values = parse(*words).values
    assert values["table"] == tuple(map(Path, tables))
    assert values["seed"] == seed


@pytest.mark.parametrize("words", [["--table"], ["--table", "--seed", "2"], ["--table", "a.csv", "b.csv", "--table"]])
def test_a_flag_of_paths_needs_one(configs, words):
    with pytest.raises(UserError, match="--table"):
        parse(*words)


def test_a_second_settings_file_behind_paths_is_pointed_out(configs):
    with pytest.raises(UserError, match=r"two settings files, own\.yaml and --config other\.yaml"):
        parse("--table", "a.csv", "b.csv", "own.yaml", "--config", "other.yaml")


@pytest.mark.parametrize(
    ("paths", "line"),
    [
        (("a.csv",), "table: a.csv "),
        (("my, own.csv",), "table: my, own.csv "),
        (("a.csv", "b.csv"), "table: [a.csv, b.csv] "),
        (("a, b.csv", "1", "[c]: d # e.csv", "no"), "table: ["),
        (tuple(f"folder/of/tables/{n}.csv" for n in range(30)), "table: ["),
    ],
)
def test_paths_in_a_written_file_are_one_text_or_a_list_that_reads_back(configs, paths, line):
    first = parse("--table", *paths)
    text = first.as_yaml("a run")
    assert any(one.startswith(line) and one.endswith("# command line") for one in text.splitlines())
    assert parse("--config", str(configs("run.yaml", text))).values == first.values


def test_written_settings_read_back_to_the_same_values(configs, tmp_path):
    first = parse("--beta", "1e-7", "--fast", "--partial_rate", "0.3", "--steps", "-1,4")
    file = tmp_path / "settings.yaml"
    file.write_text(first.as_yaml("a run"))
    assert parse("--config", str(file)).values == first.values
    assert "# command line" in file.read_text()


def test_print_config_prints_and_stops(configs, capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--print_config", "--beta", "3")
    assert stop.value.code == 0
    assert "beta: 3.0" in capsys.readouterr().out


def test_help_shows_the_script_default(configs, capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help", defaults={"dataset": "voc07"})
    assert stop.value.code == 0
    assert "voc07" in capsys.readouterr().out


def test_the_short_help_has_common_settings_and_those_of_the_method_and_help_all_has_all(configs, capsys):
    def shown(*words):
        with pytest.raises(SystemExit):
            parse(*words, method="m")
        return capsys.readouterr().out

    short, whole = shown("--help"), shown("--seed", "3", "--help", "all")
    assert all(f"--{name}" in text for name in ("seed", "beta") for text in (short, whole))
    assert "--folder" not in short
    assert "--folder" in whole
    assert "method: m" in short


def test_a_synonym_of_a_value_is_that_value_on_the_command_line_and_in_files(configs, tmp_path):
    configs("datasets/digits.yaml", "seed: 7")
    (tmp_path / "mine.yaml").write_text("dataset: numbers")
    for given in (["--dataset", "numbers"], ["--config", str(tmp_path / "mine.yaml")]):
        settings = parse(*given)
        assert settings.values["dataset"] == settings.of(Data).dataset == "digits"
        assert settings.values["seed"] == 7


def test_where_no_words_are_given_those_of_the_process_are_read(configs, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["main_x.py", "--seed", "3", "--beta", "2"])
    settings = parse_settings(command(), None)
    assert (settings.values["seed"], settings.values["beta"], settings.words) == (3, 2, ())
    assert [settings.is_typed(name) for name in ("seed", "beta", "mode", "nothing")] == [True, True, False, False]


def test_settings_are_written_in_two_columns_the_second_their_origins(configs):
    configs("m/digits.yaml", "seed: 4")
    settings = parse("--steps", "-1,4", "--beta", "3", method="m")
    expected = [("dataset: digits", "default"), ("partial_rate: 0.1", "default"), ("seed: 4", "configs/m/digits.yaml")]
    expected += [("folder:", "default"), ("batch_size: 16", "default"), ("table:", "default")]
    expected += [("beta: 3.0", "command line")]
    expected += [("mode: linear", "default"), ("fast: False", "default"), ("steps: -1,4", "command line")]
    lines = [f"{line:40}  # {origin}" for line, origin in expected]
    assert settings.as_yaml("a run") == "\n".join(["# a run", *lines, ""])
    assert [settings.is_given(name) for name in ("seed", "beta", "mode")] == [True, True, False]


@dataclass(frozen=True, kw_only=True)
class Filled:
    beta: float = option(0.1, "weight")
    gamma: float = option(0.2, "another")

    def __post_init__(self):
        object.__setattr__(self, "beta", 2 * self.gamma)


@dataclass(frozen=True, kw_only=True)
class OfVariant(Filled):
    variant: str = option("a", "variant")


@pytest.mark.parametrize(("config", "origin"), [(Filled, "derived"), (OfVariant, "variant a")])
def test_what_a_config_fills_in_itself_has_that_origin(configs, config, origin):
    made = Command(program="main_x.py", about="A test.", groups={"data": (Data,)}, methods={"m": config})
    settings = parse_settings(made, ["--gamma", "3"])
    assert (settings.values["beta"], settings.origins["beta"]) == (settings.method_config.beta, origin) == (6, origin)
    assert (settings.origins["gamma"], settings.origins["seed"]) == ("command line", "default")
