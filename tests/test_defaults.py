"""What callers get that say nothing: the defaults of functions and of plain records, which no command line shows.

Defaults of settings are compared with `configs/settings.json`.
"""

import importlib
import inspect
import math
import time
from datetime import timedelta

import pytest

from data.build import build_data, load_splits
from data.datasets.coco import CocoSplit
from data.datasets.formatted import write_formatted
from data.datasets.generated.digits import digit_scenes
from data.datasets.source import DatasetSource
from data.datasets.table.annotations import read_voc_style
from data.datasets.table.cells import read_cells
from data.datasets.table.codes import name_column
from data.datasets.table.origin import TableOrigin
from data.datasets.table.roles import quoted
from data.download.fetch import fetch, obtain
from data.download.prepare import move_into, prepare
from data.images.files import in_threads
from data.images.opening import decode, opened
from data.images.reading import AS_STORED
from data.inspection import StoredImage
from data.labels.files import read_native
from data.labels.regimes import dropped_positives
from data.loading.photometric import Distortion, SideCut
from data.loading.samplers import ClassAwareBatches, OrderedBatches, SemiBatches, ShuffledBatches
from data.loading.transforms import NORMALIZATIONS, MultiScaleCrop
from engine.core.class_figures import class_figures
from engine.core.inference import view_image
from engine.core.run_lock import RunLock
from engine.inspection.report import report
from engine.prediction.predictor import Prediction, Predictor
from engine.training.examples import choose_rows
from engine.training.loop import TrainState
from engine.training.optim import Plateau
from losses import build_criterion
from losses.assume_negative import assume_negative_losses
from losses.cdcr import candidate_losses, chosen_candidates
from losses.cls import kept_share
from losses.comes import entry_weights
from losses.common.base import Criterion
from losses.cones import cones_loss, pseudo_labels
from losses.csl import partial_asymmetric_losses
from losses.gr import gr_losses, gr_schedule
from losses.large_loss import modified_share
from models.backbones.timm_networks import TimmFeatureExtractor
from models.build import build_model
from models.classifier import Classifier
from models.heads import HeadKind
from models.heads.ctran import CTranHead
from models.heads.query2label import Query2LabelHead
from models.heads.saliency import Saliency
from models.heads.transformer import EncoderLayer, input_projection
from models.peers import build_peers
from models.released.contents import Contents, listed
from utils.analysis_plots import Line
from utils.bootstrap import bootstrap, weighted_average_precision
from utils.calibration import fit_calibration
from utils.console import Progress
from utils.localisation import PointingGame, hits
from utils.metrics import evaluate_known, evaluate_scores, reliability
from utils.options import option
from utils.perceptual_hash import nearest_within
from utils.thresholds import choose_thresholds
from utils.types import CriterionInfo
from utils.unit_rows import group_rows

RANKS = {"rank": 0, "world_size": 1}
TRANSFORMER = {"pre_norm": False, "self_attention": False}
DEFAULTS = [
    (build_criterion, {"epochs": 1, "steps_per_epoch": 1, "seed": 0, "frozen_epochs": 0, "class_priors": None}),
    (build_criterion, {"noise_rates": None, "groups": None, "class_vector_width": 0, "regulariser": None}),
    (assume_negative_losses, {"smoothing": 0.0, "absent_weight": 1.0}),
    (candidate_losses, {"variant": "fixed"}),
    (chosen_candidates, {"rule": "confidence"}),
    (kept_share, {"lag": 0}),
    (entry_weights, {"corrected": True}),
    (pseudo_labels, {"threshold": 1.0, "rule": "keep_single"}),
    (cones_loss, {"threshold": 1.0}),
    (modified_share, {"start": 2}),
    (partial_asymmetric_losses, {"variant": "fixed"}),
    (gr_schedule, {"frozen": 0}),
    (gr_losses, {"variant": "fixed"}),
    (CriterionInfo, {"frozen_epochs": 0, "class_priors": None, "candidate_rates": None, "noise_rates": None}),
    (CriterionInfo, {"groups": None, "class_vector_width": 0}),
    (CocoSplit, {"left_out": 0}),
    (DatasetSource, {"skip_missing": False, "l48_labels": "target", "l48_rows": "labelled"}),
    (read_voc_style, {"skip_missing": False}),
    (read_cells, {"whole": False}),
    (name_column, {"whole": False}),
    (TableOrigin, {"several": False}),
    (quoted, {"most": 8}),
    (build_data, {"need_images": True, "new": False}),
    (load_splits, {"new": False}),
    (decode, {"reading": AS_STORED, "draft": 0}),
    (opened, {"draft": 0}),
    (nearest_within, {"radius": 31}),
    (bootstrap, {"seed": 0, "level": 0.95}),
    (weighted_average_precision, {"rows": None}),
    (group_rows, {"score": "max"}),
    (report, {"skip_bad": False}),
    (write_formatted, {"overwrite": False}),
    (digit_scenes, {"long_tail": False}),
    (in_threads, {"shown": True}),
    (fetch, {"pause": time.sleep}),
    (obtain, {"pause": time.sleep}),
    (prepare, {"archives": None, "pause": time.sleep}),
    (move_into, {"replace": False}),
    (StoredImage, {"side": (0, 0), "mode": "", "form": "", "size": 0}),
    (read_native, {"same_draw": False}),
    (dropped_positives, {"keep_one": False}),
    (Distortion, {"brightness": 0.0, "contrast": 1.0, "contrast_first": True, "saturation": 1.0, "hue": 0.0}),
    (Distortion, {"channels": (0, 1, 2)}),
    (SideCut, {"least": 0.8}),
    (ShuffledBatches, RANKS),
    (ClassAwareBatches, {"reduce": 4, "run": 3, **RANKS}),
    (OrderedBatches, RANKS),
    (SemiBatches, {"drop_last": False, **RANKS}),
    (ShuffledBatches.set_epoch, {"start": 0}),
    (MultiScaleCrop, {"scales": (1, 0.9, 0.8, 0.7, 0.6), "max_distort": 2}),
    (view_image, {"row": 0}),
    (Prediction.labels, {"top": None, "threshold": None}),
    (choose_thresholds, {"enough_positives": 10}),
    (fit_calibration, {"enough": 10}),
    (class_figures, {"predicted": None}),
    (reliability, {"bins": 15}),
    (Predictor.predict, {"batch_size": 16, "maps": False}),
    (Predictor.scored, {"maps": False}),
    (RunLock, {"flag": "--output"}),
    (choose_rows, {"seed": 0}),
    (TrainState, {"epoch": 1, "step": 0, "seconds": 0.0, "images": 0, "best_epoch": 0, "best_score": -math.inf}),
    (TrainState, {"stopped": False}),
    (Plateau, {"factor": 1.0, "best": -math.inf, "waited": 0}),
    (TimmFeatureExtractor, {"pretrained": False}),
    (build_model, {"pretrained": True}),
    (build_peers, {"pretrained": True}),
    (Classifier, {"norm_eval": False, "norm_frozen": False}),
    (Saliency, {"in_test": True}),
    (HeadKind, {"takes_labels": False, "needs_label_info": False}),
    (CTranHead, {"heads": 4, "layers": 3, "dropout": 0.1, "encode_positions": False, "unknown_zero": True}),
    (Query2LabelHead, {"heads": 4, "encoder_layers": 1, "decoder_layers": 2, "dropout": 0.1, "projected": False}),
    (Query2LabelHead, {"hidden": None, "inner": None, "pre_norm": False, "self_attention": (False, False)}),
    (EncoderLayer, {"pre_norm": False}),
    (input_projection, {"projected": False}),
    (Contents.size, {"axis": 0}),
    (listed, {"limit": 3}),
    (Line, {"dashed": False}),
    (Progress, {"done": 0}),
    (PointingGame, {"tolerance": 0.0}),
    (hits, {"tolerance": 0.0}),
    (evaluate_scores, {"threshold": 0.0}),
    (evaluate_known, {"threshold": 0.0}),
    (option, {"aliases": (), "choices": (), "common": False, "strict": False}),
]


@pytest.mark.parametrize(("called", "expected"), DEFAULTS, ids=lambda value: getattr(value, "__qualname__", ""))
def test_defaults_are_as_documented(called, expected):
    parameters = inspect.signature(called).parameters
    found = {name: parameters[name].default for name in expected}
    assert [(name, type(value), value) for name, value in found.items()] == [
        (name, type(value), value) for name, value in expected.items()
    ]


def test_a_criterion_calls_its_model_once_and_wants_scores_of_the_network_unless_it_says_so():
    assert (Criterion.single_pass, Criterion.train_scores_of, Criterion.needs) == (True, "network", frozenset())
    assert Criterion.takes_soft is False


TEST_IMAGES = {
    **{"voc07": 4952, "voc12": 5823, "pascal": 5823, "voc-lt": 4952},
    **{"coco": 40137, "coco17": 4952, "coco-lt": 5000, "cub": 5794, "wider": 29179},
}
CONSTANTS = {
    "losses.assume_negative": {"GUARD": 1e-5},
    "losses.cdcr": {"GUARD": 1e-8, "_IDLE": 2, "_SHOWN": 5},
    "losses.comes": {"_SHOWN": 5, "_PAIRS": 16_777_216},
    "losses.csl": {"GUARD": 1e-8},
    "losses.group_means": {"_BLOCK": 16_384},
    "losses.gr": {"GUARD": 1e-7, "NO_POWER": 1e-9, "MOST": 1000, "LEAST_STD": 0.001},
    "losses.large_loss": {"_BLOCK": 4_194_304},
    "losses.transition": {"WINDOW": 5, "_SURE": 80.0},
    "losses.transition_estimate": {"LEAST_CHOSEN": 50, "_SLACK": 0.3, "_ROWS": 65_536},
    "losses.common.candidate_memory": {"BLOCK": 4_194_304},
    "losses.common.memory": {"BLOCK": 16_777_216},
    "losses.common.small_loss": {"_ROUNDING": 1e-9},
    "losses.cones": {"EPS": 1e-8},
    "losses.cones_prototypes": {"KMEANS_SEED": 42},
    "losses.ndlp_confidence": {"EPS": 1e-8},
    "losses.reweighted": {"LEAST_COUNT": 0.5},
    "data.datasets.coco": {"_MAX_COORDINATE": 1e9},
    "data.datasets.cub": {"ATTRIBUTES": 312},
    "data.datasets.l48": {"RECORDINGS": 10_000, "FIRST_TEST": 8_000, "OF_SPECIES": (80, 20), "SIZE": (750, 236)},
    "data.datasets.long_tail_pickles": {"_TOLERANCE": 1e-6},
    "data.datasets.openimages": {"GROUPS": 5, "_LONGEST_ID": 64},
    "data.datasets.table.annotations": {"_MAX_COORDINATE": 1e9},
    "data.datasets.table.cells": {"_SHARE": 0.25, "_HARDLY_ANY": 0.1, "_SHOWN": 3, "_LEAST_MARKS": 3},
    "data.datasets.table.codes": {"_SHOWN": 3, "_FIRST_LINES": 1000},
    "data.datasets.table.columns": {"_LOOKED_AT": 5, "_SAMPLE": 200},
    "data.datasets.table.delimited": {"_BLOCK": 4096},
    "data.datasets.table.each": {"_BLOCK": 1_048_576},
    "data.datasets.table.sheet": {"_HEAD": 1024},
    "data.datasets.table.joined": {"_SHOWN": 3},
    "data.datasets.table.labelled": {"_LONGEST_NAME": 200},
    "data.datasets.table.origin": {"_KEPT": 8},
    "data.datasets.table.reader": {"_MOST_NAMED": 5},
    "data.datasets.visual_genome": {"TEST_SHARE": 0.3, "SPLIT_SEED": 1, "CATEGORIES": 256, "_MOST_DIGITS": 18},
    "data.datasets.wider": {"_MAX_COORDINATE": 1e6},
    "data.datasets.unpacked": {"LEVELS": 3, "_MANY": 2000},
    "data.download.fetch": {"TRIES": 6, "TIMEOUT": 60.0, "LONGEST_PAUSE": 60.0, "CHUNK": 1_048_576},
    "data.download.prepare": {"_MARGIN": 1.5},
    "data.features.reader": {"_BLOCK": 16_777_216, "_HEAD": 65_536, "_LARGEST_PACKED": 1_073_741_824},
    "data.files.cache": {"_END": 2048, "_CHUNK": 65_536},
    "data.files.csv_blocks": {"_SIZE": 16_777_216},
    "data.files.text_files": {"_LONGEST_FIELD": 4_194_304},
    "utils.safe_files": {"ABANDONED": 3600.0},
    "data.images.caching": {"_GB": 1e9, "_MEMORY_SHARE": 0.9},
    "data.images.files": {"_SECONDS_BEFORE_A_BAR": 2.0},
    "data.inspection": {"_BLOCK": 4_194_304, "_EDGE": 1.0},
    "data.labels.arrays": {"_BLOCK": 4_194_304},
    "data.labels.entries": {"BLOCK": 262_144},
    "data.labels.files": {"FORMAT": 2},
    "data.labels.implied": {"_CELLS": 16_777_216, "_ROWS": 524_288},
    "data.labels.lists": {"_TOLERANCE": 0.1, "_SHOWN": 60},
    "data.labels.validation": {"_BLOCK": 4_194_304},
    "data.loading.loader": {"_PREFETCH": 4},
    "data.loading.photometric": {"_TRIES": 50, "_FLATTEST": 0.5, "_TALLEST": 2.0},
    "data.subsets.long_tail": {"_PARETO_SHAPE": 6.0, "_PARETO_LAST": 0.99},
    "data.subsets.overlap": {"_NAMED": 3},
    "engine.core.checkpoint": {"_MOST_CLASSES": 1_000_000},
    "engine.core.command_line": {"_HELP_COLUMN": 32, "_HELP_WIDTH": 110},
    "engine.core.distributed": {"_PATIENCE": timedelta(days=7)},
    "engine.core.run_lock": {"TOUCH_SECONDS": 60.0, "STALE_SECONDS": 600.0, "POLL_SECONDS": 5.0},
    "engine.core.cli": {"_LONGEST": 900},
    "engine.core.scoring": {"_HELD": 268_435_456},
    "engine.core.settings_files": {"_DEEPEST": 20},
    "engine.core.suggestions": {"_CLOSE": 0.8},
    "engine.evaluation.published": {"TEST_IMAGES": TEST_IMAGES, "_ENOUGH": 0.98, "_MANY": 1000},
    "engine.inspection.command": {"_IMBALANCED": 30, "_SQUARE": 80, "_SQUARE_SPARSE": 60, "_FEW": 10},
    "engine.inspection.report": {"LISTED": 1000, "_LEAST_SHARED": (2, 0.001)},
    "engine.inspection.text": {"_WIDEST": 28, "_EXAMPLES": 40, "_BINS": 10},
    "engine.prediction.command": {"_THUMBNAIL": 240},
    "engine.prediction.export": {"TOLERANCE": 1e-4, "_BATCHES": (1, 2, 5), "_ONNX_BYTES": 2_147_483_648},
    "engine.prediction.heatmaps": {"SIDES": (256, 1024), "_STRENGTH": 0.65, "_LETTERS": 40},
    "engine.prediction.shard_files": {"_ROWS": 65_536},
    "engine.prediction.shard_loader": {"_AHEAD": 2},
    "engine.prediction.shards": {"_BLOCK": 1_048_576},
    "engine.prediction.sources": {"_STEM": 100},
    "engine.prediction.walking": {"_HELD": 100_000},
    "engine.reproduction.worker": {"BUSY": -1000, "STOPPED": 128, "_LOOK_SECONDS": 2.0},
    "engine.training.examples": {"EXAMPLES": 8, "SHOWN": 3, "_BLOCK": 4096},
    "engine.training.optim": {"BETTER": 1e-4, "CYCLE_START": 0.04, "HIGH_MOMENTUM": 0.95, "LOW_MOMENTUM": 0.85},
    "engine.training.label_memory": {"SHARE": 0.5},
    "models.backbones.feature_extractors": {"_REFERENCE_SIZE": 224},
    "models.backbones.tresnet": {"_SLOPE": 1e-3, "_EPSILON": 1e-5, "_PATCH": 4},
    "models.classifier": {"_USUAL_SIZES": (224, 240, 256, 288, 320, 336, 384, 392, 448, 512, 518)},
    "models.heads.word_vectors": {"_LONGEST_LINE": 1_048_576},
    "utils.bootstrap": {"DRAWS": 1000, "_HELD": 10_000_000},
    "utils.free_memory": {"UNKNOWN": 17_179_869_184},
    "utils.label_dynamics": {"MOST_EPOCHS": 32767, "LAST_MODIFIED": 255},
    "utils.long_tail": {"HEAD_FROM": 100, "MIDDLE_FROM": 20},
    "utils.metrics": {"TOP": 3},
    "utils.perceptual_hash": {"SIDE": 64, "BITS": 255, "_BLOCK": 1_048_576},
    "utils.ranking": {"RANKS": (1, 3, 5)},
    "utils.types": {"PRESENT": 1, "ABSENT": 0, "UNKNOWN": -1},
}
"""Limits and published numbers by module, and how many entries are looked at at a time, which bounds memory."""


@pytest.mark.parametrize("module", CONSTANTS)
def test_limits_and_published_numbers_are_as_documented(module):
    held = importlib.import_module(module)
    assert {name: getattr(held, name) for name in CONSTANTS[module]} == CONSTANTS[module]


def test_images_are_normalised_by_published_means_and_deviations():
    assert NORMALIZATIONS == {
        "unit": None,
        "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "half": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        "centred": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    }
