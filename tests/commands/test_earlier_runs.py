"""Runs made before heads, labels and lists had settings of their own (version 0.1) stay readable, and resume alike.

`tests/fixtures/old_runs.tar.xz` holds five finished runs of `digits`, and of each the state saved when it was stopped
in its second epoch: one network, two networks, CoNeS, `--record all`, `--ema`.
"""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands.scene import result, run, succeed
from tests.commands.scene import state as saved_state

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "old_runs.tar.xz"
EVERY = "--dataset digits --ss_frac_train 0.1 --ss_frac_val 0.5 --epochs 2 --seed 3 --save_minutes 0 --test_every 1"
LINEAR = "--train_mode linear --norm_eval"
COMMANDS = {
    "one": "main_BCE.py --partial_rate 0.4 --optimizer sgd --lr 0.02",
    "two": f"main_cls.py --labels_left 25 {LINEAR}",
    "cones": f"main_CoNeS.py --partial_rate 0.4 {LINEAR}",
    "recorded": f"main_llm.py --labels single --mod_scheme LL-Cp --record all {LINEAR}",
    "averaged": f"main_BCE.py --loss an --labels single --ema 0.9 {LINEAR}",
}
SOME = [name if name in ("one", "cones") else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]
CLOSE = {"abs": 2e-3}  # rounding differs between processors, and may turn the order of two scores


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of the five runs, never written to."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("name", SOME)
def test_a_stopped_run_goes_on_to_the_end_it_had(runs, tmp_path, name):
    folder = tmp_path / name
    shutil.copytree(runs / name, folder)
    (folder / "result.json").unlink()
    (folder / "last").mkdir()
    (folder / "stopped.pth").rename(folder / "last" / "state.pth")
    script, *words = f"{COMMANDS[name]} {EVERY} --threads 1".split()
    assert "resuming at epoch 2" in succeed(tmp_path, script, *words, "--output", folder, "--resume")
    now, then = result(folder), result(runs / name)
    newer = {"data", "best_on_test", "calibration", "per_class"}  # which those runs did not record
    assert now.keys() - then.keys() == newer
    assert then.keys() <= now.keys()
    assert now["test"] == pytest.approx(then["test"], **CLOSE)
    assert now["last"] == pytest.approx(then["last"], **CLOSE)
    assert now["label_hash"] == then["label_hash"]
    assert saved_state(folder)["loop"]["position"]["epoch"] == 3


def test_other_settings_are_still_refused_on_resume(runs, tmp_path):
    folder = tmp_path / "one"
    shutil.copytree(runs / "one", folder)
    script, *words = f"{COMMANDS['one']} {EVERY} --threads 1".split()
    done = run(tmp_path, script, *words, "--output", folder, "--resume", "--momentum", "0.5")
    assert done.returncode == 2
    assert "was started with --momentum 0.9, now it is 0.5" in done.stderr
    assert "is finished" in succeed(tmp_path, script, *words, "--output", folder, "--resume")


@pytest.mark.parametrize("name", SOME)
def test_a_checkpoint_scores_what_it_scored(runs, tmp_path, name):
    succeed(tmp_path, "evaluate.py", "--load_from", runs / name / "best.pth", "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    then = result(runs / name)
    assert found["test"] == pytest.approx({key: then["test"][key] for key in found["test"]}, **CLOSE)


@pytest.mark.slow
def test_comparisons_and_analyses_read_them(runs, tmp_path):
    folders = [runs / name for name in COMMANDS]
    shown = succeed(tmp_path, "compare.py", *folders, "--output", tmp_path / "compared")
    for name in COMMANDS:
        assert f"{100 * result(runs / name)['test']['mAP']:8.2f}" in shown
    assert (tmp_path / "compared" / "examples.png").exists()
    for what in ("memorisation", "modification", "found", "modified"):
        succeed(tmp_path, "analyse.py", what, runs / "recorded", "--output", tmp_path)
        assert (tmp_path / f"{what}.png").exists()
    assert "pointing game" in succeed(tmp_path, "analyse.py", "pointing", runs / "cones", "--output", tmp_path)


def test_labels_are_predicted_by_them(runs, tmp_path):
    image = tmp_path / "image.png"
    Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(image)
    for name in COMMANDS:
        assert str(image) in succeed(tmp_path, "predict.py", image, "--load_from", runs / name / "best.pth")
