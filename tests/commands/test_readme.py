"""What the README says a newcomer can paste works as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.scene import ROOT, environment, result

README = (ROOT / "README.md").read_text()


def block(heading):
    """The first shell block below a heading."""
    return re.search(r"```bash\n(.*?)```", README.split(f"## {heading}\n")[1], re.DOTALL).group(1)


@pytest.mark.slow
def test_own_pictures_train_and_are_scored(tmp_path):
    lines = re.sub(r"\b(main_BCE|evaluate)\.py", lambda script: str(ROOT / script.group()), block("Your own images"))
    assert len(lines.strip().splitlines()) <= 30
    done = subprocess.run(
        ["bash", "-e", "-c", lines],
        cwd=tmp_path,
        env={**environment(tmp_path), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "mAP" in done.stdout
    held = result(tmp_path / "runs" / "my")
    assert (held["dataset"], held["labels"]) == ("table", "given")
    assert held["test"]["mAP"] > 0.8  # colours are easy
