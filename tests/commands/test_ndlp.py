"""NDLP and its plain rivals as a user runs them, on small long-tailed lists and on the published ones."""

import contextlib
import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

import main_ndlp
from data.datasets.long_tail import LAYOUTS
from data.loading.samplers import ClassAwareBatches, class_members
from tests import golden_files
from tests.commands.scene import ROOT, SMALL, refusal, result, run, state, succeed
from tests.data.datasets.test_long_tail import load_real, real_lists
from tests.data.trees import real_data
from utils.long_tail import class_frequencies
from utils.types import LabelTable

TINY = (*SMALL[:4], "--img_size", "32", "--neck_width", "16", "--threads", "1")
"""A small network in place of the ResNet-50, and small pictures; the rest is the recipe of the script."""
FEW = (*TINY, "--batch_size", "8", "--sampler_reduce", "8", "--epochs", "2")
CLASSES = ("cat", "traffic light", "dog", "boat", "lamp")
CHANCES = (0.9, 0.3, 0.2, 0.08, 0.05)
HOMES = {
    "voc-lt": ("Dataset", "VOCdevkit/VOC2012/JPEGImages/2008_{:06d}.jpg", "VOCdevkit/VOC2007/JPEGImages/{:06d}.jpg"),
    "coco-lt": ("Dataset/COCO2017", "train2017/{:012d}.jpg", "val2017/1{:011d}.jpg"),
    "nw-lt": ("Dataset/NUS-WIDE", "images/{:06d}.jpg", "images/1{:05d}.jpg"),
}
"""Where the settings of a dataset expect its pictures, and how its lists call those for training and for testing."""


def printed(place, dataset, gamma, rate):
    """The words of the published command."""
    settings = f"configs/{place}/LT_resnet50_pfc_DB.yaml --dataset {dataset} --seed 0 --batch_size 32 --epochs 10"
    return f"{settings} --gamma {gamma} --partial_rate {rate} --eta 0.9 --alpha_range 0.4,0.8".split()


PRINTED = {
    "voc": printed("voc", "voc-lt", 3, 0.3),
    "coco": printed("coco", "coco-lt", 2, 0.05),
    "nuswide": printed("nuswide", "nus-wide", 2, 0.05),
}


def long_tailed_tree(folder, name, rows=24, seed=0):
    """`appendix/`, `Dataset/` and `configs/` as in a checkout, with pictures of noise; the labels in list order.

    The lists name the pictures in no order; every fourth row is a test row too, under another name.
    """
    rng = np.random.default_rng(seed)
    layout, (home, *forms) = LAYOUTS[name], HOMES[name]
    truth = (rng.random((rows, len(CLASSES))) < CHANCES).astype(np.int8)
    truth[np.arange(rows) % len(CLASSES) == 1, 1] = 1
    truth[: len(CLASSES)] |= np.eye(len(CLASSES), dtype=np.int8)
    numbers = rng.permutation(rows) + 1
    lists = folder / "appendix" / layout.lists
    lists.mkdir(parents=True)
    (lists / f"{layout.prefix}_labels.txt").write_text("".join(f"{one} {k}\r\n" for k, one in enumerate(CLASSES)))
    for split, form, taken in (("train", forms[0], range(rows)), ("test", forms[1], range(0, rows, 4))):
        lines = []
        for row in taken:
            listed = form.format(numbers[row])
            path = folder / home / listed
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (36, 44, 3), dtype=np.uint8)).save(path)
            lines.append(" ".join([listed, *map(str, np.flatnonzero(truth[row]))]))
        (lists / f"{layout.prefix}_lt_{split}.txt").write_text("\n".join(lines) + "\n")
    (folder / "configs").symlink_to(ROOT / "configs")
    return SimpleNamespace(truth=truth, numbers=numbers)


def write_candidates(path, candidates):
    """A label file of the published form: a pickled dictionary with (N, 1, C) floats, rows in list order."""
    path.parent.mkdir(exist_ok=True)
    np.save(path, {"partial_labels": candidates[:, None, :].astype(np.float64)}, allow_pickle=True)


def started(path):
    """The facts that a run began with."""
    return json.loads((path / "log.jsonl").read_text().splitlines()[0])


def settings(path):
    """The settings of a run, every value the text in the file."""
    return yaml.load((path / "settings.yaml").read_text(), yaml.BaseLoader)


def resolved(*words):
    """The settings that a command would run with."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        main_ndlp.main([*words, "--print_config"])
    return yaml.safe_load(said.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """VOC-MLT in small, with head, middle and tail, and a run of the published command."""
    folder = tmp_path_factory.mktemp("ndlp")
    long_tailed_tree(folder, "voc-lt", rows=120)
    (folder / "said.txt").write_text(succeed(folder, "main_ndlp.py", *PRINTED["voc"], *TINY, "--output", "run"))
    return folder


@pytest.mark.slow
def test_the_published_command_trains_with_the_published_recipe(folder):
    held, said = result(folder / "run"), (folder / "said.txt").read_text()
    assert (held["method"], held["variant"], held["dataset"]) == ("ndlp", "fixed", "voc-lt")
    assert (held["labels"], held["rate"], held["epochs"], held["selection"]) == ("candidate", 0.3, 10, "last")
    assert "--prior clean: class frequencies are counted in the TRUE labels" in said
    assert "sampler: class-aware by the CLEAN labels" in said
    chosen = settings(folder / "run")
    recipe = {"head": "pfc", "frozen_stages": "1", "norm_eval": "True", "augment": "photometric", "lr": "0.02"}
    loss = {"gamma": "3.0", "map_gamma": "0.3", "neg_scale": "5.0", "distribution": "bounded"}
    assert recipe.items() <= chosen.items()
    assert loss.items() <= chosen.items()


def test_the_result_has_head_middle_and_tail_and_their_picture(folder):
    extra = result(folder / "run")["extra"]
    assert set(extra["groups"]) == {"head", "middle", "tail", "total"}
    for name in ("head", "middle", "tail"):
        assert 0 < extra[name] == extra["groups"][name]["mAP"]
        assert set(extra["groups"][name]) == {"mAP", "micro_F1", "macro_F1", "accuracy"}
    assert extra["groups"]["total"]["mAP"] == pytest.approx(result(folder / "run")["test"]["mAP_all"])
    assert Image.open(folder / "run" / "tail.png").size[0] > 500


def test_what_was_learnt_is_logged_and_kept(folder):
    rows = state(folder / "run")["loop"]["position"]["history"]
    assert [row["mix"] > 0 for row in rows] == [False] + [True] * 9
    assert all(0 < row["chosen"] <= 1 and row["pseudo_positives"] > 0 for row in rows)
    kept = state(folder / "run")["loop"]["criterion"]
    confidence = kept["confidence.values"]
    assert 120 < len(confidence) - 1 < 120 * len(CLASSES)
    assert np.allclose([confidence.sum(), kept["sums"].sum()], 120)  # images
    assert int(kept["counts"].sum()) == len(confidence) - 1


def test_a_checkpoint_scores_as_the_run_did(folder):
    succeed(folder, "evaluate.py", "--load_from", "run/best.pth", "--json", "scores.json")
    scores, held = json.loads((folder / "scores.json").read_text()), result(folder / "run")
    assert scores["test"] == held["test"]
    assert {name: held["extra"][name] for name in scores["extra"]} == scores["extra"]


@pytest.mark.slow
@pytest.mark.parametrize("place, name", [("coco", "coco-lt"), ("nuswide", "nw-lt")])
def test_the_other_published_commands_take_the_settings_file_by_its_flag_too(tmp_path, place, name):
    long_tailed_tree(tmp_path, name)
    file, *rest = PRINTED[place]
    succeed(tmp_path, "main_ndlp.py", *rest, "--config", file, *TINY, "--output", "run")
    held, chosen = result(tmp_path / "run"), settings(tmp_path / "run")
    assert (held["dataset"], held["rate"], held["epochs"]) == (name, 0.05, 10)
    assert (chosen["gamma"], chosen["map_gamma"], chosen["neg_scale"]) == ("2.0", "0.2", "2.0")
    assert resolved(str(ROOT / file)) == resolved("--dataset", name)  # the file stands for the dataset's settings


@pytest.mark.parametrize("before", [(), ("--config",)])
def test_a_settings_file_in_python_without_a_yaml_is_refused_naming_it(tmp_path, before):
    line = refusal(tmp_path, "main_ndlp.py", *before, "none/LT_resnet50_pfc_DB.py", "--output", "none")
    assert "give none/LT_resnet50_pfc_DB.yaml (there is none beside it)" in line


def test_the_printed_coco_line_trains_on_coco_at_the_published_rate_and_says_so(folder):
    words = [word.replace("coco-lt", "voc-lt").replace(".yaml", ".py") for word in PRINTED["coco"]]
    done = run(folder, "main_ndlp.py", *words, "--lr", "0.01", "--print_config")
    held = yaml.safe_load(done.stdout)
    assert (done.returncode, held["dataset"], float(held["lr"]), held["resize"]) == (0, "coco-lt", 0.02, "cv2-like")
    python, dataset, rate = done.stderr.splitlines()
    assert ".py: no .py is run here; its settings are those of " in python
    assert dataset.startswith("note: --dataset voc-lt: configs/coco/LT_resnet50_pfc_DB.yaml says dataset coco-lt and ")
    assert rate.startswith("note: --lr 0.01: configs/coco/LT_resnet50_pfc_DB.yaml says lr 0.02 and rules")
    alone = run(folder, "main_ndlp.py", "--lr", "0.01", "--print_config")
    assert (float(yaml.safe_load(alone.stdout)["lr"]), alone.stderr) == (0.01, "")


def test_db_loss_trains_by_its_own_protocol_under_the_same_published_name(folder):
    words = (str(ROOT / "configs/coco/LT_resnet50_pfc_DB.py"), "--print_config")
    held = yaml.safe_load(run(folder, "main_BCE.py", *words).stdout)
    protocol = str(ROOT / "configs/protocols/distribution_balanced.yaml")
    own = run(folder, "main_BCE.py", protocol, "--dataset", "coco-lt", "--print_config")
    assert held == yaml.safe_load(own.stdout)
    assert (held["loss"], held["epochs"], held["model"], float(held["map_gamma"])) == ("db", 8, "resnet50", 0.2)


def test_published_candidates_are_read_in_the_order_of_the_list(tmp_path):
    tree = long_tailed_tree(tmp_path, "voc-lt")
    candidates = tree.truth | (np.random.default_rng(5).random(tree.truth.shape) < 0.3)
    write_candidates(tmp_path / "pre-processed-data" / "voc-lt_0.3_sd0.npy", candidates)
    succeed(tmp_path, "main_ndlp.py", *FEW, "--seed", "0", "--output", "run")
    facts = started(tmp_path / "run")
    assert facts["label_file"] == "pre-processed-data/voc-lt_0.3_sd0.npy"
    assert not facts["label_file_made_now"]
    by_id = candidates[np.argsort(tree.numbers)].astype(np.int8)
    assert result(tmp_path / "run")["label_hash"] == LabelTable(by_id).hash()
    assert LabelTable(candidates.astype(np.int8)).hash() != LabelTable(by_id).hash()


def test_published_candidates_without_a_true_label_are_refused(tmp_path):
    tree = long_tailed_tree(tmp_path, "voc-lt")
    candidates = tree.truth.copy()
    candidates[np.flatnonzero(tree.truth[:, 2])[0], 2] = 0
    write_candidates(tmp_path / "pre-processed-data" / "voc-lt_0.3_sd0.npy", candidates)
    line = refusal(tmp_path, "main_ndlp.py", *FEW, "--seed", "0", "--output", "run")
    assert "voc-lt_0.3_sd0.npy" in line
    assert "dog" in line


@pytest.mark.parametrize(
    "words, told",
    [
        (("--alpha_range", "0.4"), "alpha_range must be two shares such as 0.4,0.8"),
        (("--alpha_range", "0.4,much"), "'0.4,much'"),
        (("--alpha_range", "0.4,1.2"), "must hold shares in [0, 1]"),
        (("--alpha_range", "0.4,nan"), "must be a finite number"),
        (("--gamma", "0"), "gamma must be above 0"),
        (("--labels", "single"), "no image has several candidates"),
        (("--weight_norm", "by_batch"), "weight_norm by_batch"),
        (("--gama", "3"), "did you mean --gamma"),
    ],
)
def test_what_cannot_work_is_one_line(folder, words, told):
    assert told in refusal(folder, "main_ndlp.py", *FEW, *words, "--output", "none")


@pytest.mark.parametrize(
    "prior, told", [("candidate", ""), ("confidence", "--prior confidence: class frequencies are estimated")]
)
def test_other_priors_do_not_touch_the_true_labels(folder, prior, told):
    words = ("--prior", prior, "--sampler_labels", "observed", "--output", f"prior-{prior}")
    said = succeed(folder, "main_ndlp.py", *FEW, *words)
    assert told in said
    assert "TRUE" not in said
    assert "CLEAN" not in said


def test_the_reference_variant_runs_and_is_told_with_its_members(folder):
    succeed(folder, "main_ndlp.py", *FEW, "--variant", "reference", "--repeats", "mean", "--output", "reference")
    assert result(folder / "reference")["variant"] == "reference"
    chosen = settings(folder / "reference")
    members = {"distribution": "reference", "update_logits": "biased", "mix_statistics": "updated", "repeats": "mean"}
    assert members.items() <= chosen.items()
    text = (folder / "reference" / "settings.yaml").read_text()
    assert text.count("# variant reference") == 3


RIVAL = ("--dataset", "voc-lt", *FEW, "--epochs", "1", "--warmup_epoch", "0", "--sampler", "class-aware")


@pytest.mark.parametrize("loss", ["db", "cb"])
def test_plain_rivals_take_clean_and_candidate_frequencies(folder, loss):
    runs = {prior: f"{loss}-{prior}" for prior in ("clean", "candidate")}
    for prior, output in runs.items():
        said = succeed(folder, "main_BCE.py", *RIVAL, "--loss", loss, "--prior", prior, "--output", output)
        assert ("TRUE labels" in said) == (prior == "clean")
    assert len({result(folder / output)["label_hash"] for output in runs.values()}) == 1
    histories = [state(folder / output)["loop"]["position"]["history"] for output in runs.values()]
    assert histories[0][0]["loss"] != histories[1][0]["loss"]


def test_focal_loss_weighs_no_class_and_so_has_no_prior(folder):
    succeed(folder, "main_BCE.py", *RIVAL, "--loss", "focal", "--output", "focal")
    assert {"head", "middle", "tail", "groups"} <= result(folder / "focal")["extra"].keys()
    line = refusal(folder, "main_BCE.py", *RIVAL, "--loss", "focal", "--prior", "clean", "--output", "none")
    assert "unknown flag --prior" in line


@pytest.mark.parametrize(
    "script, words, labels",
    [
        ("main_CoNeS.py", ("--labels", "candidate", "--clusters", "2", "--beta", "0.5"), "candidate"),
        ("main_llm.py", ("--labels", "dropped", "--drop_rate", "0.5", "--mod_scheme", "LL-Ct"), "dropped"),
        ("main_cls.py", ("--labels", "dropped", "--drop_rate", "0.5", "--tau_h", "0.2", "--tau_l", "0.2"), "dropped"),
    ],
)
def test_methods_of_other_papers_train_on_long_tails(folder, script, words, labels):
    output = script.removesuffix(".py")
    succeed(folder, script, "--dataset", "voc-lt", *FEW, "--warmup_epoch", "0", *words, "--output", output)
    held = result(folder / output)
    assert (held["dataset"], held["labels"]) == ("voc-lt", labels)
    assert {"head", "middle", "tail", "groups"} <= held["extra"].keys()


# The published lists


def test_the_real_lists_train_on_the_photographs_that_are_here(tmp_path):
    lists, pictures = real_lists(), real_data("voc_mini/VOCdevkit")
    shutil.copytree(ROOT / "configs" / "voc", tmp_path / "configs" / "voc")
    places = ("--path_lists", lists, "--path_images", pictures, "--missing_images", "skip")
    words = (*PRINTED["voc"], *places, *TINY, "--epochs", "1", "--output", "run")
    said = succeed(tmp_path, "main_ndlp.py", *words)
    assert "of 1142 training rows" in said
    held = result(tmp_path / "run")
    assert (held["labels"], held["rate"]) == ("candidate", 0.3)
    assert {"head", "middle", "tail"} <= held["extra"].keys()


@pytest.mark.parametrize("name, held_as", [("voc-lt", "voc"), ("coco-lt", "coco")])
def test_golden_class_aware_epochs_of_the_published_lists(tmp_path, name, held_as):
    golden = golden_files.load("class_aware_sampler.npz")
    held = golden_files.part(golden, f"{held_as}_")
    train = load_real(name, tmp_path).train
    np.testing.assert_array_equal(train.truth.dense()[np.argsort(train.places)], held["labels"])
    np.testing.assert_allclose(class_frequencies(train.truth).condition_prob, held["cond_prob"], rtol=1e-9)
    batches = ClassAwareBatches(
        class_members(train.truth), 32, seed=0, reduce=int(held["reduce"]), run=int(held["run_length"])
    )
    assert (batches.draws, len(batches)) == (held["epoch_len"], held["batches_of_32"])
    seen = np.mean([(train.truth.rows(batches.order(one)) == 1).sum(axis=0) for one in range(1, 9)], axis=0)
    np.testing.assert_allclose(seen, held["expected_label_counts"], rtol=0.04)
