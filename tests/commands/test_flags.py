"""The public flags of each script are frozen: a change of a name, default or choice is a visible change of a file here.

After a change that is meant: `python -m tests.commands.test_flags` writes the files anew.
"""

from pathlib import Path

import pytest

import main_BCE
import main_CoNeS
import main_real
from engine.inspection import InspectionConfig
from engine.labels import OutputConfig
from engine.run import SECTIONS
from engine.score import ScoreConfig
from engine.settings import setting_table
from losses import CRITERIA

FROZEN = Path(__file__).parent / "flags"


def flags(sections, defaults):
    """One line a flag: names, default, choices."""
    lines = []
    for name, setting in sorted(setting_table(sections).items()):
        names = " ".join(f"--{each}" for each in (name, *setting.aliases))
        choices = f"  {{{','.join(setting.choices)}}}" if setting.choices else ""
        lines.append(f"{names} = {defaults.get(name, setting.default)}{choices}\n")
    return "".join(lines)


def scripts():
    """Script -> its flags as text."""
    training = {
        "main_BCE.py": ("bce", main_BCE.DEFAULTS),
        "main_CoNeS.py": ("cones", main_CoNeS.DEFAULTS),
        "main_real.py": ("cones", main_real.DEFAULTS),
    }
    found = {
        script: flags({**SECTIONS, method: CRITERIA[method].config}, defaults)
        for script, (method, defaults) in training.items()
    }
    data = {"data": SECTIONS["data"]}
    found["generate_labels.py"] = flags({**data, "output": OutputConfig}, {"dataset": "voc07"})
    found["inspect_data.py"] = flags({**data, "split": SECTIONS["split"], "inspection": InspectionConfig}, {})
    found["evaluate.py"] = flags({**data, "loader": SECTIONS["loader"], "scoring": ScoreConfig}, {})
    return found


@pytest.mark.parametrize("script", sorted(scripts()))
def test_flags_are_as_frozen(script):
    assert scripts()[script] == (FROZEN / f"{script}.txt").read_text()


def test_every_frozen_file_is_of_a_script():
    assert {path.name for path in FROZEN.glob("*.txt")} == {f"{script}.txt" for script in scripts()}


if __name__ == "__main__":
    FROZEN.mkdir(exist_ok=True)
    for script, text in scripts().items():
        (FROZEN / f"{script}.txt").write_text(text)
