"""The public flags of each script are frozen: a change of a name, default or choice is a visible change of a file here.

After a change that is meant: `python -m tests.commands.test_flags` writes the files anew.
"""

import importlib
from pathlib import Path

import pytest

from data.subsets.splits import SplitConfig
from engine.analysis.command import ANALYSES
from engine.analysis.sweep import SweepConfig
from engine.core.settings import setting_table
from engine.evaluation.command import ScoreConfig
from engine.generate_labels import OutputConfig
from engine.inspection.command import InspectionConfig
from engine.prediction.command import PredictConfig
from engine.training.config import SECTIONS, choice_config
from losses import CRITERIA
from tests.test_methods_complete import choice_flag, script_methods

FROZEN = Path(__file__).parent / "flags"


def flags(sections, defaults):
    """One line a flag: names, default, choices."""
    lines = []
    for name, setting in sorted(setting_table(sections).items()):
        names = " ".join(f"--{each}" for each in (name, *setting.aliases))
        choices = f"  {{{','.join(setting.choices)}}}" if setting.choices else ""
        lines.append(f"{names} = {defaults.get(name, setting.default)}{choices}\n")
        lines += [f"--{short} {held.values}: sets {name} and more\n" for short, held in setting.shorthands.items()]
    return "".join(lines)


def frozen_file(script):
    """Where the flags of a script are frozen."""
    return FROZEN / f"{script.replace(' --', '-').replace(' ', '-')}.txt"


def training_flags():
    """Script -> its flags; of a script of several methods those of each, `main_BCE.py --loss an`."""
    found = {}
    for script, methods in script_methods().items():
        defaults = importlib.import_module(script.removesuffix(".py")).DEFAULTS
        if isinstance(methods, str):
            found[script] = flags({**SECTIONS, methods: CRITERIA[methods].config}, defaults)
            continue
        flag = choice_flag(script)
        for method in methods:
            sections = {"choice": choice_config(methods, flag), **SECTIONS, method: CRITERIA[method].config}
            found[f"{script} --{flag} {method}"] = flags(sections, defaults)
    return found


def scripts():
    """Script -> its flags as text."""
    found = training_flags()
    data = {"data": SECTIONS["data"]}
    found["generate_labels.py"] = flags({**data, "output": OutputConfig}, {"dataset": "voc07"})
    found["inspect_data.py"] = flags({**data, "split": SplitConfig, "inspection": InspectionConfig}, {})
    found["evaluate.py"] = flags({**data, "loader": SECTIONS["loader"], "scoring": ScoreConfig}, {})
    found["predict.py"] = flags({"prediction": PredictConfig}, {})
    analyses = {name: analysis.config for name, analysis in ANALYSES.items()} | {"sweep": SweepConfig}
    found |= {f"analyse.py {name}": flags({"analysis": config}, {}) for name, config in analyses.items()}
    return found


@pytest.mark.parametrize("script", sorted(scripts()))
def test_flags_are_as_frozen(script):
    assert scripts()[script] == frozen_file(script).read_text()


def test_every_frozen_file_is_of_a_script():
    assert set(FROZEN.glob("*.txt")) == {frozen_file(script) for script in scripts()}


if __name__ == "__main__":
    FROZEN.mkdir(exist_ok=True)
    for script, text in scripts().items():
        frozen_file(script).write_text(text)
