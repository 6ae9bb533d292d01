"""Class priors from run to run: estimated by one that learns from known labels alone, told, and switched off."""

import csv

import numpy as np
import pytest
import torch

from engine.core.scoring import rows_in_order
from engine.training import class_priors
from tests.commands.scene import SMALL, refusal, result, succeed, tiny_voc

RUN = (
    "main_BCE.py",
    "--dataset",
    "voc07",
    *SMALL,
    "--warmup_epoch",
    "0",
    "--no-figures",
    "--seed",
    "1",
    "--epochs",
    "2",
)
KNOWN = ("--labels", "rps", "--rps_unknown", "0.3")
WAYS = {
    "images": (),
    "features": ("--train_mode", "linear_fixed_features", "--feature_views", "2", "--augment", "flip"),
    "off": ("--no-class_priors",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny dataset."""
    folder = tmp_path_factory.mktemp("priors")
    tiny_voc(folder)
    return folder


def priors_of(path):
    with (path / "class_priors.csv").open(newline="") as file:
        return {row["class"]: float(row["prior"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_ignores_unknown_labels_writes_what_its_network_predicts_on_average(folder, way, monkeypatch):
    scores = []

    def watched(model, loader, rows, runtime):
        model.eval()
        logits = rows_in_order(lambda images: model(images).logits, 20, loader, rows, runtime, label="")
        scores.append(torch.sigmoid(torch.from_numpy(logits).double()).mean(dim=0).numpy())
        return original(model, loader, rows, runtime)

    original = class_priors.estimated_priors
    monkeypatch.setattr("engine.training.run.estimated_priors", watched)
    succeed(folder, *RUN, "--loss", "iu", *KNOWN, *WAYS[way], "--output", way)
    found = result(folder / way)
    if way == "off":
        assert "class_priors" not in found
        assert not (folder / way / "class_priors.csv").exists()
        return
    values = priors_of(folder / way)
    assert found["class_priors"] == {"origin": "ignore_model", "values": values}
    assert len(values) == 20
    np.testing.assert_allclose(list(values.values()), scores[0], rtol=1e-6)


def test_the_next_run_reads_the_file_and_tells_so_and_a_spoilt_one_is_refused(folder):
    succeed(folder, *RUN, "--loss", "csl", "--csl_mode", "ignore", *KNOWN, "--output", "known")
    csl = (*RUN, "--loss", "csl", *KNOWN, "--prior_threshold", "0.4")
    succeed(folder, *csl, "--prior_file", "known/class_priors.csv", "--output", "csl")
    values = priors_of(folder / "known")
    assert result(folder / "csl")["class_priors"] == {"origin": "given", "values": values}
    assert not (folder / "csl" / "class_priors.csv").exists()
    counted = succeed(folder, *csl, "--prior", "observed", "--output", "counted")
    assert "class_priors.csv" not in counted
    assert result(folder / "counted")["class_priors"]["origin"] == "observed"
    lines = (folder / "known" / "class_priors.csv").read_text().splitlines()
    (folder / "short.csv").write_text("\n".join(lines[:-1]))
    line = refusal(folder, *csl, "--prior_file", "short.csv", "--output", "none")
    assert line.startswith("error: short.csv: no line for class ")
    assert not (folder / "none").exists()
