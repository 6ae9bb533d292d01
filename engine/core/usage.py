"""Help, and mistakes on a command line, answered from the generated table before anything heavy is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engine.core.setting_table import command_names, read_command, training_names
from engine.core.settings import Request
from utils.checks import require


def check_usage(program: str, argv: Sequence[str] | None) -> None:
    """Answer what needs no more than the table of settings; return where the command itself has to go on.

    Args:
        program: name of the script, as in the table.
        argv: the command line without the program, None for the real one.

    Raises:
        UserError: a flag that there is not, a value of the wrong kind, or a settings file that cannot be used.
        SystemExit: help was asked for, and printed.
    """
    command = read_command(program)
    Request(command, argv, elsewhere=frozenset() if command.methods else training_names()).check()


def check_subcommand(program: str, argv: Sequence[str]) -> None:
    """The same for a script whose first word chooses one of several commands, such as `analyse.py pointing`.

    Words after `--` belong to another command.
    """
    commands = {name.split()[1]: read_command(name) for name in command_names() if name.startswith(f"{program} ")}
    what = argv[0] if argv else ""
    if what in ("-h", "--help"):
        lines = [f"usage: {program} WHAT [RUN ...] [--flag VALUE ...]", ""]
        lines += [f"  {name:13} {command.about}" for name, command in commands.items()]
        sys.stdout.write("\n".join([*lines, "", f"{program} WHAT --help lists the flags.", ""]))
        raise SystemExit(0)
    require(what in commands, f"{program}{what and ' '}{what}: say first what to do: {', '.join(commands)}")
    end = list(argv).index("--") if "--" in argv else len(argv)
    check_usage(f"{program} {what}", argv[1:end])
