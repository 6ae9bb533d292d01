"""How a paper trains: its script's defaults as a settings file for methods of other scripts, or those of its model."""

import contextlib
import importlib
import io
import json

import pytest
import yaml

from tests.commands.scene import ROOT, SMALL, refusal, result, state, succeed, tiny_voc

OF_THE_DATA = {"dataset", "labels", "drop_rate"}
SCRIPTS = {"cls": "main_cls", "large_loss": "main_llm"}
FOLDER = ROOT / "configs" / "protocols"

ASL = {"loss": "asl", "gamma_pos": 0, "disable_torch_grad_focal_loss": True, "ema": 0.9997, "scheduler": "one_cycle"}
ASL |= {"pct_start": 0.2, "ema_start": "initial", "lr": 1e-4, "img_size": 448, "batch_size": 128}
ASL |= {"augment": "randaugment-cutout"}
SPLC = {name: ASL[name] for name in ASL.keys() - {"loss", "gamma_pos", "disable_torch_grad_focal_loss"}}
CSRA = {"loss": "bce", "head": "csra", "num_heads": 1, "optimizer": "sgd", "lr": 0.01, "head_lr_mult": 10, "w_d": 1e-4}
CSRA |= {"momentum": 0.9, "warmup_epoch": 2, "epochs": 30, "batch_size": 16, "lr_gamma": 0.1}
EM = {"labels": "single", "label_seed": 1200, "split_seed": 1200, "val_frac": 0.2, "drop_last": None, "w_d": 0}
EM |= {"model": "resnet50", "optimizer": "adam", "head_lr_mult": 1, "scheduler": "constant", "warmup_epoch": 0}
EM |= {"img_size": 448, "normalize": "imagenet", "augment": "flip", "epochs": 10, "early_stop": "first"}
EM |= {"neg_proportion": 0.9}
GR = {"loss": "gr", "labels": "single", "label_seed": 1200, "split_seed": 1200, "ss_seed": 999, "val_frac": 0.2}
GR |= {"val_set_variant": "clean", "drop_last": None, "model": "resnet50", "head": "linear", "img_size": 448}
GR |= {"normalize": "imagenet", "augment": "flip", "optimizer": "adam", "w_d": 0, "lr": 1e-5, "head_lr_mult": 10}
GR |= {"scheduler": "constant", "warmup_epoch": 0, "early_stop": 2, "variant": "fixed"}
GR |= {"weight_mean": "0.5,0.8", "weight_std": "2.0,0.5", "present_power": 0.01, "absent_power": 1.0}
LATER = {"pseudo_slope": "0.0,10.0", "pseudo_bias": "-2.0,-8.0"}
PUBLISHED = {
    ("asl", "coco"): ASL
    | {"model": "tresnet_m", "gamma_neg": 4, "clip": 0.05, "eps": 1e-8, "reduction": "sum"}
    | {"optimizer": "adam", "w_d": 1e-4, "w_d_biases": False, "normalize": "unit"}
    | {"epochs": 41, "schedule_epochs": 80, "drop_last": None},
    ("splc", "coco"): SPLC
    | {"loss": "splc", "reduction": "sum", "margin": 1, "focal_gamma": 2, "tau": 0.6, "start_epoch": 2}
    | {"model": "resnet50", "head": "linear", "optimizer": "adam", "w_d": 1e-4, "w_d_biases": False}
    | {"head_lr_mult": 1, "warmup_epoch": 0, "normalize": "unit", "epochs": 31, "schedule_epochs": 80},
    ("csl", "coco"): SPLC
    | {"loss": "csl", "reduction": "sum", "csl_mode": "selective", "likelihood_topk": 5, "prior_threshold": 0.5}
    | {"gamma_pos": 0, "gamma_neg": 1, "gamma_unknown": 4, "clip": 0, "model": "tresnet_m", "head": "linear"}
    | {"optimizer": "adam", "lr": 2e-4, "w_d": 1e-4, "w_d_biases": False, "head_lr_mult": 1, "batch_size": 64}
    | {"normalize": "unit", "epochs": 30, "schedule_epochs": None, "warmup_epoch": 0},
    ("cdcr", "coco"): SPLC
    | {"loss": "cdcr", "reduction": "sum", "candidate_threshold": 0.6, "candidate_rule": "confidence"}
    | {"model": "tresnet_l", "head": "linear", "optimizer": "adam", "w_d": 1e-4}
    | {"w_d_biases": False, "head_lr_mult": 1, "warmup_epoch": 0, "normalize": "unit", "img_size": 224}
    | {"epochs": 57, "schedule_epochs": 80, "labels": "candidate", "partial_rate": 0.05},
    ("plc", "pascal"): {"loss": "plc", "second_view": "randaugment", "batch_size": 32},
    ("plc", "coco"): {"loss": "plc", "labels": "single", "label_seed": 1200, "split_seed": 1200, "val_frac": 0.2}
    | {"pseudo_threshold": 0.6, "plc_weight": 1, "model": "resnet50", "head": "q2l", "hidden_dim": 2048, "nheads": 4}
    | {"dim_feedforward": 8192, "enc_layers": 1, "dec_layers": 2, "img_size": 448, "normalize": "unit"}
    | {"augment": "flip", "second_view": "randaugment", "batch_size": 32, "epochs": 40, "optimizer": "adamw"}
    | {"lr": 1e-4, "head_lr_mult": 1, "w_d": 1e-2, "scheduler": "one_cycle", "pct_start": 0.2, "warmup_epoch": 0}
    | {"ema": 0.9997},
    **{
        ("pu_mlc", dataset): {"loss": "pu_mlc", "labels": "known", "label_seed": 0, "model": "resnet101", "w_d": 1e-4}
        | {"head": "linear", "frozen_stages": 3, "norm_eval": True, "optimizer": "adam", "head_lr_mult": 1, "lr": lr}
        | {"scheduler": "one_cycle", "pct_start": 0.2, "schedule_epochs": 80, "epochs": epochs, "ema": ema}
        | {"warmup_epoch": 0, "batch_size": batch, "vpu_scale": scale, "vpu_power": power, "mixup_beta": 0.3}
        for dataset, lr, epochs, ema, batch, scale, power in (
            ("coco", 1e-4, 40, 0.9997, 70, 1.0, 0.55),
            ("voc07", 4e-5, 55, 0.991, 90, 2.0, 0.85),
        )
    },
    ("cap", "coco"): {"loss": "cap", "labels": "semi", "labelled_share": 0.05, "label_seed": 1, "reduction": "sum"}
    | {"kept_present": 1, "kept_absent": 0.998, "gamma_pos": 0, "gamma_neg": 4, "clip": 0.05, "cap_warmup": None}
    | {"sampler": "semi", "labelled_per_batch": 4, "batch_size": 64, "img_size": 224, "model": "resnet50"}
    | {"head": "linear", "augment": "randaugment-cutout", "epochs": 40, "optimizer": "adamw", "lr": 1e-4, "w_d": 1e-4}
    | {"head_lr_mult": 1, "scheduler": "one_cycle", "pct_start": 0.2, "warmup_epoch": 0, "ema": 0.9997},
    ("cap", "pascal"): {"labelled_share": 0.05, "labelled_per_batch": 2, "batch_size": 32},
    ("query2label", "coco"): ASL
    | {"model": "resnet101", "head": "q2l", "gamma_neg": 2, "clip": 0, "eps": 1e-5, "reduction": "query2label"}
    | {"optimizer": "adamw", "w_d": 1e-2, "w_d_biases": True, "epochs": 80, "drop_last": "train"}
    | {"normalize": "imagenet", "norm_frozen": True, "frozen_stages": 1}
    | {"hidden_dim": 2048, "dim_feedforward": 8192, "nheads": 4, "enc_layers": 1, "dec_layers": 2, "dropout": 0.1},
    ("ml-gcn", "coco"): {"loss": "bce", "model": "resnet101", "head": "gcn", "img_size": 448, "epochs": 100}
    | {"lr": 0.01, "head_lr_mult": 10, "momentum": 0.9, "w_d": 1e-4, "step_size": 40, "clip_grad": 10}
    | {"word_width": 300, "gcn_width": 1024, "gcn_threshold": 0.4, "gcn_p": 0.2},
    ("c-tran", "coco"): {"loss": "label_mask", "model": "resnet101", "head": "ctran", "img_size": 576, "lr": 1e-5}
    | {
        "batch_size": 16,
        "optimizer": "adam",
        "w_d": 0,
        "scheduler": "plateau",
        "patience": 5,
        "plateau_of": "loss",
        "min_lr": 1e-8,
        "enc_layers": 3,
    }
    | {"hidden_dim": 2048, "dim_feedforward": 2048, "mask_known": 0.75, "unknown_state": "random"},
    ("c-tran", "voc07"): {"batch_size": 32, "lr": 1e-5},
    ("csra", "voc07"): CSRA
    | {"model": "resnet101", "lam": 0.1, "step_size": 4, "img_size": 448, "augment": "crop", "normalize": "unit"},
    ("csra", "coco"): CSRA | {"num_heads": 4, "lam": 0.5, "step_size": 5},
    ("vit-csra", "wider"): CSRA
    | {"model": "vit_b_16", "lam": 0.3, "step_size": 5, "img_size": 224, "augment": "flip", "normalize": "centred"},
    ("single_positive", "coco"): {"labels": "single", "label_seed": 1200, "split_seed": 1200, "ss_seed": 999}
    | {"val_frac": 0.2, "drop_last": "train,validation,test", "model": "resnet50", "optimizer": "adam", "w_d": 0}
    | {"lr": 1e-5, "head_lr_mult": 1, "scheduler": "constant", "warmup_epoch": 0, "epochs": 10, "batch_size": 16}
    | {"img_size": 448, "normalize": "imagenet", "augment": "flip", "early_stop": None},
    **{
        ("em", dataset): EM | {"entropy_weight": alpha, "pseudo_weight": beta, "apl_warmup": warmup} | more
        for dataset, alpha, beta, warmup, more in (
            ("pascal", 0.2, 0.02, 5, {"batch_size": 8, "lr": 1e-5}),
            ("coco", 0.1, 0.9, 5, {"batch_size": 16, "lr": 1e-5}),
            ("nuswide", 0.1, 0.2, 4, {"batch_size": 16, "lr": 1e-5}),
            ("cub", 0.01, 0.4, 3, {"batch_size": 8, "lr": 1e-4}),
        )
    },
    ("vlpl", "pascal"): {"loss": "vlpl", "labels": "single", "batch_size": 8, "epochs": 10, "entropy_weight": 0.2},
    ("vlpl", "cub"): {"loss": "vlpl", "lr": 1e-4, "head_lr_mult": 1, "entropy_weight": 0.01, "pseudo_weight": 0.7},
    ("gpr", "pascal"): {"loss": "gpr", "batch_size": 8, "epochs": 8, "pseudo_slope": "0.0,2.0", "expected_num_pos": 1.5}
    | {"pseudo_bounds": "0.7,0.4", "count_weight": 0.05, "tile_floor": 0, "pseudo_threshold": 0.5, "pseudo_top": 3},
    ("gpr", "coco"): LATER
    | {"loss": "gpr", "batch_size": 16, "epochs": 8, "early_stop": 2, "pseudo_bounds": "0.7,0.5", "count_weight": 0.001}
    | {"tile_floor": 0.3, "pseudo_threshold": 0.5, "pseudo_top": 3, "expected_num_pos": 2.9, "prior_temperature": 0.01},
    ("gpr", "nuswide"): LATER
    | {"batch_size": 16, "epochs": 10, "pseudo_threshold": 0.6, "expected_num_pos": 1.9, "count_weight": 0.001},
    ("gpr", "cub"): LATER
    | {"batch_size": 8, "epochs": 10, "absent_power": 1.5, "pseudo_bounds": "0.8,0.2", "count_weight": 0.01}
    | {"tile_floor": 0.005, "pseudo_threshold": 0.005, "pseudo_top": 32, "expected_num_pos": 31.4}
    | {"prior_temperature": 0.1, "head_lr_mult": 10, "lr": 1e-5},
    ("transition", "voc07"): {"loss": "transition", "labels": "flip", "val_frac": 0.1, "val_set_variant": "observed"}
    | {"img_size": 224, "augment": "multiscale", "batch_size": 128, "epochs": 40, "transition_warmup": 20}
    | {"sample_epoch": 10, "lr": 5e-5, "head_lr_mult": 1, "w_d": 0, "clip_grad": 10, "known_zero": "none"},
    ("transition", "coco"): {"epochs": 60, "transition_warmup": 30, "sample_epoch": 15, "lr": 5e-5},
    ("gr", "pascal"): GR | {"batch_size": 8, "epochs": 8, "pseudo_slope": "0.0,2.0", "pseudo_bias": "-2.0,-2.0"},
    ("gr", "coco"): GR | LATER | {"batch_size": 16, "epochs": 8},
    ("gr", "nuswide"): GR | LATER | {"batch_size": 16, "epochs": 10},
    ("gr", "cub"): GR | LATER | {"batch_size": 8, "epochs": 10, "absent_power": 1.5},
    ("consistency", "coco"): {"loss": "consistency", "labels": "known", "label_seed": 0, "model": "resnet101"}
    | {"head": "linear", "saliency": 0.5, "saliency_k": 5, "saliency_test": True, "pseudo_threshold": 0.6}
    | {"mean_over": "batch", "known_view": "both", "img_size": 448, "normalize": "imagenet", "augment": "multiscale"}
    | {"second_view": "randaugment", "batch_size": 32, "epochs": 20, "optimizer": "sgd", "lr": 0.01, "momentum": 0.9}
    | {"head_lr_mult": 10, "w_d": 1e-4, "scheduler": "cosine", "warmup_epoch": 0, "val_frac": 0},
    ("comic", "coco-lt"): {"loss": "comic", "labels": "dropped", "drop_rate": 0.4, "model": "resnet50", "img_size": 224}
    | {"sampler": "class-aware", "sampler_run": 1, "batch_size": 32, "epochs": 40, "optimizer": "adam", "lr": 1e-3}
    | {"head_lr_mult": 0.1, "w_d": 1e-4, "scheduler": "step", "step_size": 12, "lr_gamma": 0.1, "warmup_epoch": 0}
    | {"prior_weight": 4 / 3, "corrector_weight": 0.2, "tau": 0.7, "margin": 1.0, "focal_gamma": 3.0, "val_frac": 0},
    ("splicemix", "coco"): {"loss": "bce", "mix": "splice", "splice_share": 0.25, "splice_grids": "0.3,0.4,0.3"}
    | {"splice_drop": 0.3, "model": "resnet101", "img_size": 448, "batch_size": 32, "epochs": 80, "optimizer": "sgd"}
    | {"lr": 0.005, "head_lr_mult": 10, "w_d": 1e-4, "milestones": "39,59", "warmup_epoch": 3, "drop_last": "train"},
    ("splicemix", "voc07"): {"batch_size": 16, "lr": 0.001, "warmup_epoch": 0, "clip_grad": 10, "mix": "splice"}
    | {"head": "linear", "pool": "max"},
    ("splicemix_cl", "coco"): {"loss": "splicemix_cl", "mix": "splice", "tile_weight": 1.0, "tile_gradient": False}
    | {"pool": "max", "model": "resnet101", "img_size": 448, "batch_size": 32, "epochs": 80, "optimizer": "sgd"}
    | {"lr": 0.005, "head_lr_mult": 10, "w_d": 1e-4, "milestones": "39,59", "warmup_epoch": 3, "drop_last": "train"},
    ("splicemix_cl", "voc07"): {"batch_size": 16, "lr": 0.001, "clip_grad": 10, "tile_gradient": True, "pool": "max"},
    ("mime", "coco"): {"loss": "mime", "labels": "single", "label_seed": 1200, "val_frac": 0.2, "split_seed": 1200}
    | {"model": "resnet50", "head": "q2l", "bottleneck": 256, "img_size": 448, "batch_size": 32, "epochs": 10, "w_d": 0}
    | {"lr": 1e-4, "head_lr_mult": 10, "scheduler": "constant", "pseudo_threshold": 0.95, "mime_warmup": 2}
    | {"divergence_weight": 1e-4, "loss_temperature": 1.0, "variant": "fixed"},
    ("mime", "cub"): {"batch_size": 16, "mime_warmup": 5, "epochs": 10},
    ("sarb", "coco"): {"loss": "sarb", "labels": "known", "label_seed": 0, "model": "resnet101", "frozen_stages": 3}
    | {"head": "csra", "img_size": 448, "normalize": "imagenet", "augment": "multiscale", "batch_size": 8, "epochs": 20}
    | {"optimizer": "adam", "lr": 1e-5, "head_lr_mult": 1, "w_d": 5e-4, "scheduler": "step", "step_size": 10}
    | {"blend_from": 6, "blend_share": 0.5, "contrast_weight": 0.05, "val_frac": 0, "prototypes": 10},
    ("hst", "coco"): {"loss": "hst", "labels": "known", "label_seed": 0, "model": "resnet101", "frozen_stages": 3}
    | {
        "head": "csra",
        "img_size": 448,
        "normalize": "imagenet",
        "augment": "multiscale",
        "batch_size": 32,
        "epochs": 20,
    }
    | {"optimizer": "adam", "lr": 1e-5, "head_lr_mult": 1, "w_d": 5e-4, "scheduler": "step", "step_size": 10}
    | {"pseudo_from": 6, "intra_margin": 0.95, "inter_margin": 0.95, "margins_learned": True, "margin_weight": 0.1}
    | {"cooccurrence_weight": 10, "contrast_weight": 0.05, "prototype_weight": 0.05, "prototypes": 10},
    ("distribution_balanced", "voc-lt"): {"loss": "db", "labels": "full", "model": "resnet50", "head": "pfc"}
    | {"frozen_stages": 1, "norm_eval": True, "img_size": 224, "normalize": "imagenet", "augment": "photometric"}
    | {"resize": "cv2-like", "sampler": "class-aware", "sampler_labels": "clean", "batch_size": 32, "epochs": 8}
    | {"lr": 0.02, "head_lr_mult": 1, "w_d": 1e-4, "clip_grad": 35, "scheduler": "step", "milestones": "5,7"}
    | {"warmup_steps": 500, "warmup_ratio": 1 / 3, "map_gamma": 0.3, "neg_scale": 5, "val_frac": 0},
    ("distribution_balanced", "coco-lt"): {"map_gamma": 0.2, "neg_scale": 2, "epochs": 8, "lr": 0.02},
}
"""What each paper and its code say."""

OF_LABELS = {"single_positive", "em", "gr", "vlpl", "gpr", "transition"}
"""Protocols of wrong or missing labels, under which any model trains."""

TINY = ("--img_size", "32", "--batch_size", "8", "--threads", "1", "--epochs", "1", "--weights", "none")
SMALLER = {
    "q2l": ("--hidden_dim", "8", "--dim_feedforward", "8", "--nheads", "2"),
    "ctran": ("--hidden_dim", "8", "--dim_feedforward", "8", "--nheads", "2"),
}


def printed(script, *words):
    """The settings a command line resolves to."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        importlib.import_module(script).main([*map(str, words), "--print_config"])
    return yaml.safe_load(said.getvalue())


def needs_its_package(name):
    """Skip where a protocol names a network of a package that is not there."""
    if "timm/" in (FOLDER / f"{name}.yaml").read_text():
        pytest.importorskip("timm")


def test_every_protocol_is_that_of_a_script_or_of_a_model():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == SCRIPTS.keys() | {name for name, _ in PUBLISHED}


@pytest.mark.parametrize(
    "name, dataset",
    [("cls", dataset) for dataset in ("voc07", "coco", "nuswide")]
    + [("large_loss", dataset) for dataset in ("pascal", "coco", "nuswide", "cub")],
)
@pytest.mark.parametrize("loss", [("an",), ("role", "--expected_num_pos", 2), ("asl",)], ids=lambda words: words[0])
def test_a_rival_trains_as_the_method_does(name, dataset, loss):
    defaults = importlib.import_module(SCRIPTS[name]).DEFAULTS.keys() - OF_THE_DATA
    labels = ("--dataset", dataset, "--labels", "single")
    rival = printed("main_BCE", FOLDER / f"{name}.yaml", "--loss", *loss, *labels)
    method = printed(SCRIPTS[name], *labels)
    assert {key: rival[key] for key in defaults} == {key: method[key] for key in defaults}
    if name == "large_loss":
        assert all(rival[key] == method[key] for key in ("val_frac", "split_seed", "label_seed", "early_stop"))
        assert float(method["early_stop"]) == 3


def test_openimages_keeps_its_own_network_and_size():
    held = printed("main_BCE", FOLDER / "large_loss.yaml", "--loss", "an", "--dataset", "openimages")
    method = printed("main_llm", "--dataset", "openimages")
    for key in ("model", "img_size", "batch_size", "val_frac", "labels", "lr", "early_stop"):
        assert held[key] == method[key]


@pytest.mark.parametrize("name, dataset", PUBLISHED)
def test_a_model_trains_as_published(name, dataset):
    needs_its_package(name)
    expected = PUBLISHED[name, dataset]
    loss = ("--loss", "em_apl") if name == "em" else ()
    held = printed("main_BCE", FOLDER / f"{name}.yaml", *loss, "--dataset", dataset)
    assert {key: float(held[key]) if isinstance(value, float) else held[key] for key, value in expected.items()} == (
        expected
    )


@pytest.mark.parametrize("name", sorted({name for name, _ in PUBLISHED} - OF_LABELS))
def test_the_settings_of_a_model_go_together(name, tmp_path):
    needs_its_package(name)
    tiny_voc(tmp_path)
    protocol = FOLDER / f"{name}.yaml"
    head = yaml.safe_load(protocol.read_text())["head"]
    backbone = ("--model", "squeezenet1_1", "--img_size", "40") if name == "vit-csra" else SMALL[:2]
    labels = {
        "splc": ["single"],
        "csl": ["rps"],
        "pu_mlc": ["known", "--known_rate", "0.6"],
        "plc": ["single"],
        "cap": ["semi", "--labelled_share", "0.5"],
        "cdcr": ["candidate"],
        "comic": ["dropped"],
        "mime": ["single"],
        **{method: ["known", "--known_rate", "0.6"] for method in ("consistency", "sarb", "hst")},
    }.get(name, ["full"])
    words = ("--dataset", "voc07", "--labels", *labels, *TINY, *SMALLER.get(head, ()), *backbone)
    succeed(tmp_path, "main_BCE.py", protocol, *words, "--output", "run")
    assert result(tmp_path / "run")["method"] == yaml.safe_load(protocol.read_text()).get("loss", "bce")


def test_single_positives_train_and_are_scored_in_whole_batches(tmp_path):
    tiny_voc(tmp_path)  # 15 rows to train on, 7 to test
    words = (FOLDER / "single_positive.yaml", "--loss", "an", "--dataset", "voc07", *SMALL, "--epochs", "1")
    said = succeed(tmp_path, "main_BCE.py", *words, "--val_frac", "0.34", "--metrics", "published", "--output", "run")
    start = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert start["images"] == {"train": 10, "validation": 4, "test": 4}
    held = state(tmp_path / "run")["loop"]["position"]
    assert (held["images"], held["epoch"]) == (8, 2)
    line = refusal(tmp_path, "main_BCE.py", *words, "--batch_size", "9", "--output", "none")
    assert "--drop_last validation: 3 images make no batch of 9" in line
    told = succeed(tmp_path, "evaluate.py", "--load_from", "run/best.pth", "--metrics", "published")
    assert "on the test set of voc07, 4 images" in told
    assert "by the published evaluators (CSRA, CoNeS): mAP " in told
    assert "the mAP of the single-positive papers" in told
    found = result(tmp_path / "run")
    assert found["best_on_test"]["epoch"] == 1
    assert found["published_metrics"]["test"].keys() == {"mAP", "CP", "CR", "CF1", "OP", "OR", "OF1"}
    assert "test by the published evaluators (CSRA, CoNeS): mAP " in said
