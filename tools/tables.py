"""The tables that are generated from the code: `python -m tools.tables` writes them, `--check` compares them.

`configs/settings.json` holds every setting of every command; `docs/settings.md` is the same for readers. Between the
marker lines `<!-- table: NAME -->` and `<!-- end -->` of other pages stand the tables of methods, heads and datasets,
from the registries and the first lines of each page.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from engine.core.setting_table import CommandTable, Setting, plain_rows, settings_of
from engine.core.settings import Command
from engine.training.config import training_command
from losses import CRITERIA
from models.heads import HEADS
from utils.options import as_text

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "configs" / "settings.json"
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def commands() -> list[Command]:
    """The settings of all scripts: those that train, and what each room of the engine offers."""
    found = []
    for path in sorted(ROOT.glob("main_*.py")):
        module = importlib.import_module(path.stem)
        about = (module.__doc__ or "").splitlines()[0]
        found.append(training_command(path.name, module.DEFAULTS, method=getattr(module, "METHOD", ""), about=about))
    for path in sorted((ROOT / "engine").rglob("*.py")):
        if path.stem in ("command", "generate_labels"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found += importlib.import_module(name).COMMANDS
    return found


def settings_json(every: Sequence[Command]) -> str:
    """The text of `configs/settings.json`."""
    configs: dict[str, list[dict[str, object]]] = {}

    def named(config: type, group: str) -> str:
        """The name of a config class, whose settings are noted."""
        rows = plain_rows(settings_of(config, group))
        if configs.setdefault(config.__name__, rows) != rows:
            raise ValueError(f"two config classes are called {config.__name__}")
        return config.__name__

    described = {
        command.program: {
            "about": command.about,
            "words": command.words,
            "defaults": {name: as_text(value) for name, value in command.defaults.items()},
            "shared": [named(config, group) for group, shared in command.groups.items() for config in shared],
            "choice": command.choice,
            "methods": {name: named(config, "method") for name, config in command.methods.items()},
            "heads": {name: named(config, "model") for name, config in command.heads.items()},
        }
        for command in every
    }
    content = {"commands": described, "configs": dict(sorted(configs.items()))}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def settings_page(every: Sequence[Command]) -> str:
    """The text of `docs/settings.md`: every setting, group by group."""
    rows: dict[str, dict[tuple[str, str], tuple[Setting, list[str]]]] = {}

    def note(table: CommandTable, settings: dict[str, Setting], owner: str) -> None:
        """Add settings of a command to their group."""
        for setting in settings.values():
            group = rows.setdefault(f"{setting.group}{owner}", {})
            group.setdefault((setting.name, setting.help), (setting, []))[1].append(table.program)

    for command in every:
        table = command.table()
        note(table, table.shared, "")
        for name, settings in table.heads.items():
            note(table, settings, f", --head {name}")
        for name, settings in table.methods.items():
            note(table, settings, f", {name}")
    lines = [
        "# Settings",
        "",
        "Every flag and YAML key, written by `make tables` from the config dataclasses. Defaults are those of the",
        "code; scripts and files under `configs/` set others, and `--print_config` shows the values in force.",
    ]
    for group, settings in rows.items():
        if settings:
            lines += [
                "",
                f"## {group}",
                "",
                "| flag | values | default | meaning | scripts |",
                "| --- | --- | --- | --- | --- |",
            ]
            lines += [_row(setting, scripts) for setting, scripts in settings.values()]
    return "\n".join(lines) + "\n"


def _row(setting: Setting, scripts: Sequence[str]) -> str:
    """A line of the page of settings."""
    names = " ".join(f"`--{name}`" for name in (setting.name, *setting.aliases))
    names += "".join(
        f" `--{name} {short.values.replace('|', chr(92) + '|')}`" for name, short in setting.shorthands.items()
    )
    kind = [] if setting.kind.startswith("choice") else [setting.kind.replace("?", "").replace("...", " list")]
    values = ", ".join([*kind, *setting.choices])
    training = [script for script in scripts if script.startswith("main_")]
    others = [script for script in dict.fromkeys(scripts) if script not in training]
    every = len(set(training)) == len(list(ROOT.glob("main_*.py")))
    used = ["training" if every else ", ".join(dict.fromkeys(training)), ", ".join(others)]
    default = as_text(setting.default)
    cells = [names, values, default and f"`{default}`", setting.help, ", ".join(filter(None, used))]
    return "| " + " | ".join(cell if cell.startswith("`--") else cell.replace("|", "\\|") for cell in cells) + " |"


def first_lines(page: Path) -> tuple[str, str]:
    """The title of a page, and the paragraph below it as one line."""
    blocks = page.read_text(encoding="utf-8").split("\n\n")
    return blocks[0].removeprefix("# ").strip(), " ".join(blocks[1].split())


def methods_table(folder: Path) -> Iterator[str]:
    """One row per page of methods, in the order of the registry.

    The second paragraph of a page is "Labels: ... Published: ...".
    """
    yield "| method | names | labels | script | published figures |"
    yield "| --- | --- | --- | --- | --- |"
    pages: dict[Path, list[str]] = {}
    for name in CRITERIA:
        pages.setdefault(method_page(name), []).append(name)
    for page, names in pages.items():
        title, summary = first_lines(page)
        found = re.fullmatch(r"Labels: (.*?)\. Published: (.*)\.", summary)
        if found is None:
            raise ValueError(f"{page}: the line below the title must read `Labels: ... Published: ...`")
        script = CRITERIA[names[0]].script
        link = f"[{title}]({_relative(page, folder)})"
        yield f"| {link} | {', '.join(f'`{name}`' for name in names)} | {found[1]} | `{script}` | {found[2]} |"


def method_page(method: str) -> Path:
    """The page of a method: its own, or that of its module, which then serves the whole family."""
    own = ROOT / "docs" / "methods" / f"{method}.md"
    return own if own.exists() else own.with_name(f"{CRITERIA[method].criterion.__module__.split('.')[-1]}.md")


def heads_table(folder: Path) -> Iterator[str]:
    """One row per head, from the docstring of its config."""
    yield "| `--head` | | its settings |"
    yield "| --- | --- | --- |"
    for name, head in HEADS.items():
        settings = " ".join(f"`--{each}`" for each in settings_of(head.config, "model"))
        yield f"| `{name}` | {(head.config.__doc__ or '').splitlines()[0]} | {settings} |"


def datasets_table(folder: Path) -> Iterator[str]:
    """One row per page of datasets, from its title and the sentence below it."""
    yield "| dataset | `--dataset` |"
    yield "| --- | --- |"
    for page in sorted((ROOT / "docs" / "datasets").glob("*.md")):
        title, summary = first_lines(page)
        yield f"| [{title}]({_relative(page, folder)}) | {summary} |"


def scripts_table(folder: Path) -> Iterator[str]:
    """One row per script, from the first line of its docstring."""
    yield "| script | |"
    yield "| --- | --- |"
    for path in sorted(ROOT.glob("*.py"), key=lambda path: (not path.stem.startswith("main_"), path.stem.lower())):
        about = (importlib.import_module(path.stem).__doc__ or "").splitlines()[0]
        yield f"| `{path.name}` | {about} |"


TABLES: dict[str, Callable[[Path], Iterator[str]]] = {
    "methods": methods_table,
    "heads": heads_table,
    "datasets": datasets_table,
    "scripts": scripts_table,
}
"""The tables between marker lines by name; each gets the folder of its page."""


def with_tables(page: Path, text: str) -> str:
    """The text of a page with its tables as they should be."""
    return _TABLE.sub(lambda found: found[1] + "\n".join(TABLES[found[2]](page.parent)) + "\n" + found[3], text)


def _relative(page: Path, folder: Path) -> str:
    """The path of a page in a link from another folder above it."""
    return str(page.relative_to(folder))


def generated() -> dict[Path, str]:
    """Every generated file with its text."""
    every = commands()
    texts = {SETTINGS: settings_json(every), ROOT / "docs" / "settings.md": settings_page(every)}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        if _TABLE.search(text):
            texts[page] = with_tables(page, text)
    return texts


def main(argv: Sequence[str]) -> int:
    """Write the files that differ, or name them with `--check`; returns the exit code."""
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        sys.stdout.write(f"{'stale' if '--check' in argv else 'written'}: {path.relative_to(ROOT)}\n")
        if "--check" not in argv:
            path.write_text(generated()[path], encoding="utf-8")
    return 1 if stale and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
