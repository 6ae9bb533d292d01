"""The text of `--help`, letter by letter, and slips that are told in one line."""

import pytest

from engine.core.command_line import CommandLine, help_text, peek, read_command_line
from engine.core.setting_table import CommandTable, Setting
from utils.checks import UserError
from utils.options import Shorthand


def setting(name, kind="int", default=3, **values):
    """A setting of a name, a kind and a default."""
    plain = Setting(name, "data", kind, (), default, f"what {name} is", (), {}, {}, False, False)
    return plain._replace(**values)


def table(*settings):
    return {each.name: each for each in settings}


PLACE = Shorthand("PLACE", "50 % of a folder", lambda text: {"folder": text, "epochs": "1"})
SHARED = table(
    setting("epochs", common=True),
    setting("rate", "float?", None, help="100 % of it", choices=("most",)),
    setting("fast", "bool", False, group="run"),
    setting("order", "choice", "x", choices=("x", "y"), group="run"),
    setting("folder", "path?", None, group="run", shorthands={"here": PLACE}),
)
METHOD = table(setting("beta", "float...", (1.0, 2.0), group="method"), setting("name", "str", "", group="method"))
HEAD = table(setting("depth", group="model"))
TRAINING = CommandTable("main_x.py", "Trains.", SHARED, {"epochs": 9}, "", {"m": METHOD, "n": {}}, {"h": HEAD})
SHOWING = CommandTable("show.py", "Shows.", SHARED, words="RUN [RUN ...]")

COMMON = """\
common:
  --help [all]    this text{}
  --config FILE   YAML file with settings; the command line wins over it
  --print_config  print the settings with their origins and stop
  --epochs N      what epochs is (default {})
"""
OF_METHOD = """\
method: m:
  --beta X,...  what beta is (default 1.0,2.0)
  --name TEXT   what name is
"""
OTHERS = """\
data:
  --rate X|most  100 % of it

run:
  --fast [True|False]  what fast is (default False)
  --order {x,y}        what order is (default x)
  --folder PATH        what folder is
  --here PLACE         50 % of a folder
"""
OF_HEAD = """\
model, --head h:
  --depth N  what depth is (default 3)
"""
MORE = "; `--help all` shows all settings"


def test_short_help_has_the_common_settings_and_those_of_the_method():
    found = help_text(TRAINING, TRAINING.of_method("m"), "m", every=False)
    usage = "usage: main_x.py [CONFIG.yaml] [--flag VALUE ...]\n\nTrains.\n\n"
    assert found == usage + COMMON.format(MORE, 9) + "\n" + OF_METHOD


def test_the_whole_help_has_every_setting_and_those_of_every_head():
    found = help_text(TRAINING, TRAINING.of_method("m"), "m", every=True)
    usage = "usage: main_x.py [CONFIG.yaml] [--flag VALUE ...]\n\nTrains.\n\n"
    assert found == usage + "\n".join([COMMON.format("", 9), OTHERS, OF_METHOD, OF_HEAD])


def test_a_command_that_trains_nothing_shows_all_that_it_has():
    found = help_text(SHOWING, SHOWING.of_method(""), "", every=False)
    usage = "usage: show.py RUN [RUN ...] [--flag VALUE ...]\n\nShows.\n\n"
    assert found == usage + COMMON.format(MORE, 3) + "\n" + OTHERS


def test_help_is_as_wide_as_a_page_and_long_flags_have_a_line_of_their_own():
    wide = table(setting("x", help="a " * 200), setting("y", help="bb" + " a" * 200), setting("z" * 40))
    lines = help_text(CommandTable("show.py", "Shows.", wide), wide, "", every=False).splitlines()
    assert max(map(len, lines)) == 110
    place = next(number for number, line in enumerate(lines) if "zzzz" in line)
    assert lines[place].strip() == f"--{'z' * 40} N"
    assert lines[place + 1] == f"{' ' * 32}what {'z' * 40} is (default 3)"


def read(*argv, command=TRAINING):
    return read_command_line(command, command.of("m", "h") if command.methods else command.shared, argv)


def test_a_command_line_is_taken_apart():
    line = read("own.yaml", "--fast", "--beta", "-1,2", "--here=home", "--no-fast", "--print_config")
    texts = {"fast": "false", "beta": "-1,2", "here": "home"}
    assert line._replace(config=str(line.config)) == CommandLine(texts, "own.yaml", True, ())
    values = {"fast": False, "beta": (-1.0, 2.0), "epochs": 1}
    found = line.values(TRAINING.of("m", "h"))
    assert str(found.pop("folder")) == "home"
    assert found == values
    assert read("--epochs", "4").texts == {"epochs": "4"}
    shown = read("a", "--epochs", "4", "b", command=SHOWING)
    assert (shown.words, shown.config, shown.only_print) == (("a", "b"), None, False)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--epohs=3"], "main_x.py: unknown flag --epohs; did you mean --epochs?"),
        (["--conf", "x"], "main_x.py: unknown flag --conf; did you mean --config?"),
        (["-h"], "main_x.py: unknown flag -h"),
        (["--print_confi"], "main_x.py: unknown flag --print_confi; did you mean --print_config?"),
        (["a.yaml", "b=c"], "main_x.py: 'b=c' is not a flag; --help lists them"),
        (["a.yaml", "--config", "b.yaml"], "main_x.py: two settings files, a.yaml and --config b.yaml; give one"),
        (["--config", "x/b.py"], "main_x.py: x/b.py: settings are YAML files here, and no .py is run for them; give x"),
        (["--epochs"], "main_x.py: argument --epochs: expected one argument"),
    ],
)
def test_slips_are_told_with_the_program(argv, words):
    with pytest.raises(UserError) as error:
        read(*argv)
    assert str(error.value).startswith(words)


def test_one_setting_is_read_before_the_others_are_known():
    shared = {**SHARED, **table(setting("loss", "choice", "m", choices=("m", "n")))}
    tables = [shared, METHOD, HEAD]
    assert peek(TRAINING, "loss", tables, ["--loss", "n", "--beta", "-1,2"]) == ("n", None)
    text, file = peek(TRAINING, "loss", tables, ["own.yaml", "--depth", "4", "--fast"])
    assert (text, str(file)) == ("", "own.yaml")
    assert peek(TRAINING, "loss", tables, ["own.yaml", "--no_such", "4"]) == ("", None)
