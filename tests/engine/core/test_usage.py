"""Which command a command line is of, what it may say, and how a script ends."""

import pytest

from engine.core import cli
from engine.core.setting_table import command_names, read_command
from engine.core.usage import check_subcommand, check_usage
from utils.checks import UserError

ANALYSES = [name.split()[1] for name in command_names() if name.startswith("analyse.py ")]


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_of_a_script_of_several_commands_names_them_all(capsys, word):
    with pytest.raises(SystemExit) as stop:
        check_subcommand("analyse.py", [word, "nonsense"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.split("\n")
    about = [f"  {name:13} {read_command(f'analyse.py {name}').about}" for name in ANALYSES]
    usage = "usage: analyse.py WHAT [RUN ...] [--flag VALUE ...]"
    assert lines == [usage, "", *about, "", "analyse.py WHAT --help lists the flags.", ""]


@pytest.mark.parametrize(("argv", "said"), [([], "analyse.py"), (["compare"], "analyse.py compare")])
def test_a_script_of_several_commands_must_be_told_which(argv, said):
    with pytest.raises(UserError) as error:
        check_subcommand("analyse.py", argv)
    assert str(error.value) == f"{said}: say first what to do: {', '.join(ANALYSES)}"


def test_words_behind_two_dashes_are_of_another_command():
    check_subcommand("analyse.py", ["sweep", "--values", "1", "--", "main_x.py", "--nonsense"])
    check_subcommand("analyse.py", ["sweep", "--values", "1", "--"])
    for argv in (["sweep", "--nonsense", "1", "--", "main_x.py"], ["sweep", "--nonsense", "1"]):
        with pytest.raises(UserError, match=r"analyse\.py sweep: unknown flag --nonsense"):
            check_subcommand("analyse.py", argv)


def test_files_of_training_may_be_named_to_other_commands_but_not_the_other_way(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("epochs: 3\nlr: 0.5\n")
    check_usage("inspect_data.py", ["--config", str(file)])
    check_usage("main_BCE.py", ["--config", str(file)])
    file.write_text("samples: 3\n")
    check_usage("inspect_data.py", ["--config", str(file)])
    with pytest.raises(UserError, match="unknown setting 'samples'"):
        check_usage("main_BCE.py", ["--config", str(file)])
    with pytest.raises(UserError, match="--samples 'many': must be a whole number"):
        check_usage("inspect_data.py", ["--samples", "many"])


@pytest.mark.parametrize("code", [0, 3])
def test_a_script_ends_with_the_code_of_its_command(code):
    with pytest.raises(SystemExit) as stop:
        cli.run(lambda argv: code if argv is None else 9)
    assert stop.value.code == code
