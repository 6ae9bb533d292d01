"""Scoring a split: on one process and on two, with truth that is dense and truth that only stores what is known."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import nn

from data.images.files import ArrayImages
from data.loading.loader import LoaderConfig
from engine.core.distributed import Runtime
from engine.core.run_results import CALIBRATION
from engine.core.scoring import (
    bce_per_image,
    beside_as_dict,
    calibration_figures,
    evaluate,
    evaluation_loader,
    group_columns,
    group_figures_as_dict,
    groups_as_dict,
    require_room_to_score,
    score,
)
from models.peers import Peers
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import RunError, UserError
from utils.metrics import calibration_error, evaluate_scores, f1_at
from utils.thresholds import best_threshold, class_thresholds
from utils.types import UNKNOWN, Annotations, LabelTable, ModelOutput

CONFIG = LoaderConfig(img_size=8, batch_size=6, augment="none")


class Colours(nn.Module):
    """Logits from the mean colour of an image, rounded so that there are ties; `bad` for the brightest image."""

    def __init__(self, classes, bad=None):
        super().__init__()
        draw = np.random.default_rng(1)
        self.weight = nn.Parameter(torch.from_numpy(draw.normal(size=(3, classes))).float())
        self.bad = bad

    def forward(self, images, want=frozenset()):
        logits = torch.round(images.mean(dim=(2, 3)) @ self.weight * 4)
        if self.bad is not None:
            logits[images[:, 0, 0, 0] > 0.99, 0] = self.bad
        return ModelOutput(logits)


def random_codes(rows, classes=9):
    """Truth with a class without positives, one of which nothing is known, and an image of which nothing is known."""
    rng = np.random.default_rng(rows)
    codes = rng.choice(np.array([-1, 0, 1], dtype=np.int8), size=(rows, classes), p=[0.6, 0.2, 0.2])
    codes[:, 2] = np.minimum(codes[:, 2], 0)
    codes[:, 4] = UNKNOWN
    codes[rows // 2] = UNKNOWN
    return codes


def as_sparse(codes):
    row, column = np.nonzero(codes != UNKNOWN)
    return LabelTable(csr_array((codes[row, column], (row, column)), shape=codes.shape), default=UNKNOWN)


def split(truth):
    """Annotations with images of one colour each; that of row 3 is the brightest."""
    ids = tuple(f"{row:04d}" for row in range(len(truth)))
    colours = np.random.default_rng(0).integers(0, 200, (len(truth), 1, 1, 3))
    colours[3:4] = 255
    images = ArrayImages(np.tile(colours, (1, 8, 8, 1)).astype(np.uint8), ids)
    return Annotations(images, ids, tuple(f"class {k}" for k in range(truth.num_classes)), truth)


def runtime_here():
    """What of a runtime scoring needs, on the processes that a test has started."""
    return SimpleNamespace(
        device=torch.device("cpu"),
        dtype=torch.float32,
        precision="fp32",
        rank=collectives.rank(),
        world_size=collectives.world_size(),
        is_main=collectives.rank() == 0,
        to_device=lambda batch: batch,
        agree=lambda flag: bool(collectives.all_max(torch.tensor(int(flag)))),
    )


def evaluated(rank, rows):
    """Scores, and the metrics by dense and by sparse truth."""
    runtime, codes = runtime_here(), random_codes(rows)
    model, dense = Colours(codes.shape[1]), split(LabelTable(codes))
    scores = score(model, evaluation_loader(dense, CONFIG, runtime, 0), rows, runtime)
    found = [evaluate(model, part, CONFIG, runtime, 0).metrics for part in (dense, split(as_sparse(codes)))]
    return scores, *found


def refused(rank, bad):
    """The message for scores that are not finite, by dense and by sparse truth; nothing is known of the bad entry."""
    codes = random_codes(23)
    codes[3, 0] = UNKNOWN
    messages = []
    for truth in (LabelTable(codes), as_sparse(codes)):
        with pytest.raises(RunError) as caught:
            evaluate(Colours(codes.shape[1], bad), split(truth), CONFIG, runtime_here(), 0, label="test")
        messages.append(str(caught.value))
    return messages


def raising(error):
    """A function that raises `error`."""

    def function(*args, **named):
        raise error

    return function


def hold_equal(found, expected):
    np.testing.assert_array_equal(found.per_class, expected.per_class)
    np.testing.assert_array_equal(found.known, expected.known)
    assert found.as_dict() == expected.as_dict()
    assert found.classes_without_positives == expected.classes_without_positives


@pytest.mark.parametrize("rows", [1, 6, 23])
def test_sparse_truth_gives_the_figures_of_dense_truth(rows):
    scores, dense, sparse = evaluated(0, rows)
    assert scores.shape == (rows, 9)
    hold_equal(dense, evaluate_scores(scores, random_codes(rows)))
    hold_equal(sparse, dense)


def everything(rank):
    """Of 23 rows and of 1, of which the second process has none; and what is said of a NaN in one process's share."""
    return {rows: evaluated(rank, rows) for rows in (1, 23)} | {"refused": refused(rank, float("nan"))}


@pytest.fixture(scope="module")
def two_processes():
    return run_ranks(everything)


@pytest.mark.parametrize("rows", [1, 23])
def test_two_processes_give_the_figures_of_one(two_processes, rows):
    scores, dense, sparse = evaluated(0, rows)
    for found in two_processes:
        scores_here, dense_here, sparse_here = found[rows]
        np.testing.assert_array_equal(scores_here, scores)
        hold_equal(dense_here, dense)
        hold_equal(sparse_here, sparse)


def test_the_loss_of_an_image_is_that_of_its_known_labels():
    logits = np.random.default_rng(2).normal(scale=4, size=(5, 3)).astype(np.float32)
    codes = np.array([[1, 0, -1], [0, 0, 0], [1, 1, 1], [-1, -1, -1], [0, 1, -1]], dtype=np.int8)
    p = 1 / (1 + np.exp(-logits.astype(float)))
    each = [-np.log(p[i, k] if codes[i, k] else 1 - p[i, k]) for i, k in zip(*np.nonzero(codes >= 0), strict=True)]
    assert bce_per_image(logits, LabelTable(codes)) == pytest.approx(sum(each) / 5, rel=1e-12)
    assert bce_per_image(np.float32([[1e4, -1e4]]), LabelTable(np.int8([[0, 0]]))) == 1e4


@pytest.mark.parametrize("held", [1, 216, 217, 10**9])
def test_many_scores_move_to_the_host_and_stay_in_order(monkeypatch, held):
    """23 images in batches of 6 with 9 scores of 4 bytes each: every batch, each whole one, every second, or none."""
    moves, cpu = [], torch.Tensor.cpu
    monkeypatch.setattr("engine.core.scoring._HELD", held)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda rows: moves.append(tuple(rows.shape)) or cpu(rows))
    codes = random_codes(23)
    model, dense = Colours(9), split(LabelTable(codes))
    scores = score(model, evaluation_loader(dense, CONFIG, runtime_here(), 0), 23, runtime_here())
    each = [model(torch.from_numpy(dense.images.pixels(row)).permute(2, 0, 1)[None] / 255).logits for row in range(23)]
    np.testing.assert_array_equal(scores, torch.cat(each).detach().numpy())
    batches = [shape for shape in moves if len(shape) == 2][:-1]
    each_whole = [(6, 9)] * 3 + [(5, 9)]
    assert batches == {1: [*each_whole, (0, 9)], 216: each_whole, 217: [(12, 9), (11, 9), (0, 9)], 10**9: []}[held]


@pytest.mark.parametrize("truth", [LabelTable, as_sparse], ids=["dense", "sparse"])
def test_a_gpu_without_memory_for_scoring_is_told_with_the_flag_that_helps(truth):
    model, codes = Colours(9), random_codes(6)
    model.forward = raising(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    with pytest.raises(
        RunError, match=r"^the GPU has no memory left for scoring; give a smaller --eval_batch_size or "
    ):
        evaluate(model, split(truth(codes)), CONFIG, runtime_here(), 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_end_the_evaluation(bad):
    dense, sparse = refused(0, bad)
    assert dense == sparse
    assert "test: the model gives scores that are not finite" in dense


def test_every_process_hears_of_scores_that_are_not_finite(two_processes):
    one, other = (found["refused"] for found in two_processes)
    assert one == other == refused(0, float("nan"))


def test_the_real_runtime_scores_too():
    codes = random_codes(23)
    found = evaluate(Colours(codes.shape[1]), split(as_sparse(codes)), CONFIG, Runtime("cpu", "fp32"), 0).metrics
    hold_equal(found, evaluated(0, 23)[2])


def test_sparse_truth_and_its_scores_never_become_matrices():
    rows, classes = 2_000, 20_000  # scores of all entries would take 160 MB, the truth 40 MB
    known = np.arange(rows, dtype=np.int32)
    codes = csr_array((np.ones(rows, np.int8), known, np.arange(rows + 1, dtype=np.int32)), shape=(rows, classes))
    annotations = split(LabelTable(codes, default=UNKNOWN))
    model, runtime = Colours(classes), runtime_here()
    tracemalloc.start()
    found = evaluate(model, annotations, LoaderConfig(img_size=8, batch_size=50), runtime, 0).metrics
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.tally.known.sum() == rows
    assert peak < 30e6


def test_groups_of_classes_have_columns_for_what_is_known_of_them():
    truth = np.array([[1, 0, 0, -1], [0, 1, 0, -1], [1, 1, 0, -1]], dtype=np.int8)
    metrics = evaluate_scores(np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32), truth)
    groups = {"head": np.array([0]), "tail": np.array([1, 2]), "none": np.array([3])}
    means = groups_as_dict(metrics, groups)
    assert means == {"head": metrics.per_class[0], "tail": metrics.per_class[1] / 2, "none": None}
    figures = group_figures_as_dict(metrics, groups)
    assert list(figures) == ["head", "tail", "none", "total"]
    assert {name: values["mAP"] for name, values in figures.items() if name != "total"} == means
    assert set(figures["none"].values()) == {None}
    columns = group_columns("test", metrics, groups)
    assert columns == {
        f"test_{group}_{name}": value
        for group in ("head", "tail", "total")
        for name, value in figures[group].items()
        if value is not None
    }
    assert group_columns("test", metrics, {}) == {}


def test_thresholds_are_of_the_validation_split_and_figures_of_the_test_set():
    rng = np.random.default_rng(3)
    test_codes, seen = random_codes(40), random_codes(30)
    test, held_out = (
        SimpleNamespace(scores=rng.normal(size=codes.shape).astype(np.float32)) for codes in (test_codes, seen)
    )
    one, each = best_threshold(held_out.scores.ravel(), seen.ravel()), class_thresholds(held_out.scores, seen)
    errors = calibration_error(1 / (1 + np.exp(-test.scores.astype(np.float64))), test_codes)
    figures = calibration_figures(test, LabelTable(test_codes), held_out, LabelTable(seen))
    assert tuple(figures) == CALIBRATION
    tuned = f1_at(test.scores, test_codes, one), f1_at(test.scores, test_codes, each)
    assert list(figures.values()) == pytest.approx([*errors, *tuned[0], *tuned[1]])
    alone = calibration_figures(test, LabelTable(test_codes), None, None)
    assert alone == {name: figures[name] for name in ("ECE", "ECE_class")}
    sparse = SimpleNamespace(scores=None)
    assert calibration_figures(test, LabelTable(test_codes), sparse, LabelTable(seen)) == alone
    unknown = LabelTable(np.full_like(test_codes, UNKNOWN))
    assert calibration_figures(test, unknown, None, None) == {}
    assert calibration_figures(SimpleNamespace(scores=None), LabelTable(test_codes), held_out, LabelTable(seen)) == {}


def test_beside_the_second_network_stands_the_mean_of_both():
    def metrics(value):
        return SimpleNamespace(as_dict=lambda: {"mAP": value, "OF1": value / 2})

    alone = SimpleNamespace(metrics=metrics(0.5), beside={})
    assert beside_as_dict(alone) == {}
    both = SimpleNamespace(metrics=metrics(0.5), beside={"g": metrics(0.25), "ensemble": metrics(0.75)})
    assert beside_as_dict(both) == {
        "g": {"mAP": 0.25, "OF1": 0.125},
        "ensemble": {"mAP": 0.75, "OF1": 0.375},
        "mean": {"mAP": 0.375, "OF1": 0.1875},
    }


@pytest.mark.parametrize("stored", ["dense", "sparse"])
def test_each_network_of_a_pair_is_measured_and_both_together(stored):
    codes = random_codes(23)
    pair = Peers(Colours(codes.shape[1]), Colours(codes.shape[1]))
    with torch.no_grad():
        pair.g.weight.neg_().add_(0.25)
    pair.train()
    truth = LabelTable(codes.copy()) if stored == "dense" else as_sparse(codes)
    found = evaluate(pair, split(truth), CONFIG, runtime_here(), 0)
    assert not pair.training
    assert list(found.beside) == ["g", "ensemble"]
    for name, metrics in {"f": found.metrics, **found.beside}.items():
        alone = _View(pair, name)
        hold_equal(metrics, evaluate(alone, split(truth), CONFIG, runtime_here(), 0).metrics)
    assert found.metrics.mAP != found.beside["g"].mAP
    if stored == "dense":
        loader = evaluation_loader(split(truth), CONFIG, runtime_here(), 0)
        np.testing.assert_array_equal(found.scores, score(pair.f, loader, 23, runtime_here()))
    else:
        assert found.scores is None


class _View(nn.Module):
    """One of the three scores of a pair as a network of its own."""

    def __init__(self, pair, name):
        super().__init__()
        self.pair, self.name = pair, name

    def forward(self, images, want=frozenset()):
        return ModelOutput(self.pair.views(images)[self.name])


def test_after_every_batch_there_is_a_call_and_progress_counts_all_processes(monkeypatch):
    calls, bars = [], []

    class Bar(list):
        def advance(self, images):
            self.images.append(images)

    def progress(loader, **named):
        bar = Bar(loader)
        bar.images = []
        bars.append((bar, named))
        return bar

    monkeypatch.setattr("engine.core.scoring.Progress", progress)
    model, annotations = Colours(9), split(LabelTable(random_codes(23)))
    model.train()
    loader = evaluation_loader(annotations, CONFIG, runtime_here(), 0)
    runtime = runtime_here()
    runtime.world_size = 3
    found = score(model, loader, 23, runtime, label="a label", after_batch=lambda: calls.append(1))
    assert (found.shape, found.dtype, model.training) == ((23, 9), np.float32, False)
    assert len(calls) == 4
    ((bar, named),) = bars
    assert bar.images == [18, 18, 18, 15]
    assert named == {"total": 23, "label": "a label", "unit": "img", "shown": True}


DENSE = LabelTable(np.zeros((40, 25), dtype=np.int8))
FEW = LabelTable(csr_array((np.ones(500, dtype=np.int8), np.arange(500) % 25, np.arange(0, 501, 10))), default=UNKNOWN)


@pytest.mark.parametrize(
    ("truth", "networks", "size"), [(DENSE, 1, 78_000), (DENSE, 2, 102_000), (FEW, 1, 22_000), (FEW, 2, 50_000)]
)
def test_scores_that_memory_does_not_hold_are_refused_before_there_are_any(truth, networks, size):
    require_room_to_score("test", truth, networks, size, "give less")
    with pytest.raises(UserError, match=r"^test: the scores of .* GiB are free; give less$"):
        require_room_to_score("test", truth, networks, size - 1, "give less")


def test_what_has_no_room_to_be_scored_is_told_with_figures():
    many = type("Many", (), {"stores_known_only": False, "num_classes": 5000, "__len__": lambda self: 125_436})()
    with pytest.raises(UserError) as error:
        require_room_to_score("validation", many, 1, 4 << 30, "give fewer")
    assert str(error.value) == (
        "validation: the scores of 125,436 images x 5,000 classes, with the figures of them, take 45.56 GiB in memory, "
        "of which 4.00 GiB are free; give fewer"
    )
    with pytest.raises(UserError, match=r"^test: the scores of 500 known labels, with the figures of them, take 0"):
        require_room_to_score("test", FEW, 1, 0, "give fewer")
