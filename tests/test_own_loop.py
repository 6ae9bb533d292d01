"""The code of docs/own_loop.md, run as it stands there."""

import re
from pathlib import Path

import pytest
import torch

from losses import CRITERIA
from tests.losses.common.test_base import needs_more

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "own_loop.md").read_text()
DATA, LOGITS, LOOP, CONES, ROLE, LIGHTNING = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A function that runs blocks of the page in one namespace, which it returns, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}

    def run(*blocks):
        for block in blocks:
            exec(block, names)
        return names

    return run


def changed(network, fresh):
    return any(not torch.equal(value, fresh[name]) for name, value in network.state_dict().items())


def test_five_lines_train_from_logits(page, capsys):
    names = page(DATA)
    fresh = {name: value.clone() for name, value in names["network"].state_dict().items()}
    page(LOGITS)
    assert len(re.findall(r"# \d", LOGITS)) == 5
    assert changed(names["network"], fresh)
    assert names["criterion"].epoch == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("3 {")
    assert "'modified': 0.0" not in last


def test_the_page_names_the_methods_that_need_a_model():
    named = re.search(r"These methods need more.*?here: (.*?)\. They", PAGE, re.S)[1]
    assert set(re.findall(r"`([^`]+)`", named)) == {name for name in CRITERIA if needs_more(name)}


def test_cones_trains_on_features_and_maps(page):
    criterion = page(DATA, LOGITS.splitlines()[0], LOOP, CONES)["criterion"]
    assert (criterion.bank.written > 0).any()
    assert torch.load("cones.pth")["epoch"] == 2


def test_role_trains_its_estimates_and_goes_on_where_it_was_saved(page):
    names = page(DATA, LOGITS.splitlines()[0], LOOP, ROLE)
    saved = torch.load("role.pth")["criterion"]["estimates"]
    assert torch.equal(saved, names["criterion"].estimates)
    untrained = names["build_criterion"]("role", observed=names["observed"], expected_num_pos=1.5)
    assert not torch.equal(saved, untrained.estimates)
    page(ROLE)  # the file is there: all epochs are done, so the parts are those that were saved
    assert torch.equal(saved, names["criterion"].estimates)


def test_the_loop_scores_the_training_set_for_the_methods_that_want_it(page):
    names = page(DATA, LOGITS.splitlines()[0], LOOP, "network = as_model(network)")
    criterion = names["build_criterion"]("curriculum", observed=names["observed"], relabel_every=1)
    names["train"](names["network"], criterion, names["loader"], 2, Path("curriculum.pth"))
    assert (criterion.pseudo != -1).any()


@pytest.fixture(scope="module")
def lightning():
    """Lightning, imported once: that takes longer than the test."""
    return pytest.importorskip("pytorch_lightning")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_and_its_checkpoint_holds_the_criterion(page, lightning):
    names = page(DATA, LOGITS.splitlines()[0], LOOP, LIGHTNING)
    assert names["trainer"].global_step == 2 * len(names["loader"])
    pseudo = names["criterion"].pseudo.cpu()
    assert (pseudo != -1).any()
    (path,) = Path("lightning_logs").rglob("*.ckpt")
    saved = torch.load(path, map_location="cpu")["state_dict"]
    assert torch.equal(saved["criterion.pseudo"], pseudo)
