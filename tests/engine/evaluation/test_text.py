"""The table of a scored checkpoint, letter by letter, and what is asked for or refused before."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.build import DatasetConfig
from data.images.reading import AS_STORED, Reading
from data.loading.loader import LoaderConfig
from engine.evaluation import command, text
from engine.evaluation.command import ScoreConfig
from engine.evaluation.published import TEST_IMAGES
from engine.evaluation.scored import Scored
from models.peers import Peers
from utils.checks import UserError
from utils.metrics import evaluate_scores
from utils.types import LabelTable, ModelOutput

TRUTH = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=np.int8)
SCORES = np.array([[2, -1, -2], [-1, 1, -2], [1, -1, -2], [1, -2, -3]], dtype=np.float32)
TEST = type("Test", (list,), {"classes": ("cat", "dog", "owl"), "truth": LabelTable(TRUTH), "groups": None})(range(4))
SAVED = SimpleNamespace(path=Path("best.pth"), classes=TEST.classes, released=None, epoch=7, notes=())
RANKING = {f"{name}@{k}": share / k for k in (1, 3, 5) for name, share in (("rec", 0.25), ("prec", 0.5), ("top", 1.0))}
PUBLISHED = SimpleNamespace(name="x-voc07", paper="A paper", source="its page", metrics={"mAP": 90.25, "head": 50.0})


def printed(capsys, *, beside=None, groups=None, top_k=False, ranking=None, published=None):
    metrics = evaluate_scores(SCORES, TRUTH)
    measured = SimpleNamespace(metrics=metrics, beside=beside or {}, scores=None)
    scored = Scored(measured, ranking, groups or {})
    text.print_table(SAVED, TEST, scored, "voc07", top_k, published)
    return capsys.readouterr().out.splitlines()


def figures():
    return {name: 100 * value for name, value in evaluate_scores(SCORES, TRUTH).as_dict().items()}


def test_a_line_for_every_figure_and_one_for_classes_without_positives(capsys):
    lines = printed(capsys)
    assert lines[0] == "best.pth (epoch 7) on the test set of voc07, 4 images"
    said = {"mAP_all": "   the mAP of the single-positive papers"}
    assert lines[1:-1] == [f"  {name:8} {value:6.2f}{said.get(name, '')}" for name, value in figures().items()]
    assert lines[-1] == "  classes without positives: owl (left out of mAP, 0 in mAP_all)"


def test_networks_of_a_pair_stand_side_by_side(capsys):
    lines = printed(capsys, beside={"g": evaluate_scores(-SCORES, TRUTH), "ensemble": evaluate_scores(SCORES, TRUTH)})
    assert lines[1] == "           " + "".join(f"{name:>9}" for name in ("f", "g", "ensemble", "mean"))
    other = {name: 100 * value for name, value in evaluate_scores(-SCORES, TRUTH).as_dict().items()}
    for line, (name, value) in zip(lines[2:-1], figures().items(), strict=True):
        every = (value, other[name], value, (value + other[name]) / 2)
        row = line.removesuffix("   the mAP of the single-positive papers" if name == "mAP_all" else "")
        assert row == f"  {name:8} " + "   ".join(f"{each:6.2f}" for each in every)


def test_groups_and_published_figures(capsys, monkeypatch):
    monkeypatch.setitem(TEST_IMAGES, "voc07", 4)
    lines = printed(capsys, groups={"head": 0.625, "tail": None}, published=PUBLISHED)
    mean = figures()["mAP"]
    assert lines[1] == f"  mAP      {mean:6.2f}   published  90.25 ({mean - 90.25:+.2f})"
    assert lines[-4:-1] == [
        "  head      62.50   published  50.00 (+12.50)",
        "  tail     no class evaluated",
        "  published: x-voc07, A paper (its page)",
    ]


@pytest.mark.parametrize(("top_k", "ranking"), [(True, RANKING), (True, None), (False, RANKING)])
def test_rankings_are_printed_when_asked_for_and_known(capsys, top_k, ranking):
    lines = printed(capsys, top_k=top_k, ranking=ranking)
    expected = [
        "  k           rec    prec     top   of the k highest scores per image",
        "  1         25.00   50.00  100.00",
        "  3          8.33   16.67   33.33",
        "  5          5.00   10.00   20.00",
    ]
    assert lines[len(figures()) + 1 : -1] == (expected if top_k and ranking else [])


def settings(given=(), typed=(), **values):
    """Settings of which some were given, some of them on the command line."""
    config = SimpleNamespace(**{"paper": None, "save_as": None, "model": None, **values})
    dataset = SimpleNamespace(dataset="voc07")
    return SimpleNamespace(
        of=lambda kind: config if kind is ScoreConfig else dataset,
        is_given=lambda name: name in given,
        is_typed=lambda name: name in typed,
    )


def file(*, classes=("a",), released=None, published=None):
    held = {"path": Path("x.pth"), "classes": classes, "released": released, "published": published, "epoch": 1}
    return SimpleNamespace(**held, settings={"model": "resnet50"})


RELEASED = SimpleNamespace(family="csra", dropped=("a", "b"))


@pytest.mark.parametrize(
    ("saved", "asked", "words"),
    [
        (file(), settings(typed=("lam", "nheads")), "--lam, --nheads: x.pth is a checkpoint of this project"),
        (file(classes=()), settings(), "x.pth: does not name its dataset (epoch 1); give --dataset"),
        (file(released=RELEASED), settings(), "does not name its dataset (released, CSRA); give --dataset"),
        (
            file(released=RELEASED),
            settings(given=("dataset",), model="vit_b_16"),
            "--model vit_b_16: the network in x.pth is a resnet50; leave the flag out",
        ),
        (
            file(released=RELEASED),
            settings(given=("dataset",), paper="csra-coco"),
            "--paper csra-coco: reports coco, not voc07",
        ),
    ],
)
def test_flags_that_do_not_fit_a_checkpoint_are_refused(saved, asked, words):
    with pytest.raises(UserError) as error:
        command._published(saved, asked)
    assert words in str(error.value)


@pytest.mark.parametrize(("dataset", "found"), [("voc07", True), ("coco", False)])
def test_a_published_result_counts_for_its_own_dataset(dataset, found):
    entry = SimpleNamespace(dataset=dataset)
    saved = file(released=RELEASED, published=entry)
    assert command._published(saved, settings(given=("dataset",))) is (entry if found else None)
    assert command._published(saved, settings(save_as=Path("y"))) is (entry if found else None)
    assert command._published(file(), settings()) is None


def test_what_is_assumed_of_a_released_file_is_printed(capsys):
    saved = SimpleNamespace(path=Path("x.pth"), notes=("lam is 0.1", "4 heads"), released=RELEASED)
    text.print_notes(saved)
    lines = ["x.pth: lam is 0.1", "x.pth: 4 heads", "x.pth: 2 tensors that never run are left out"]
    assert capsys.readouterr().out.splitlines() == lines
    saved.released = SimpleNamespace(family="csra", dropped=())
    text.print_notes(saved)
    assert capsys.readouterr().out.splitlines() == lines[:2]


def told_of(capsys, stored, *, loader=("448", "unit", "antialias"), reading=AS_STORED, shape=None):
    """The warning about a checkpoint that holds some settings, scored under others."""
    size, normalize, resize = loader
    configs = {
        LoaderConfig: SimpleNamespace(img_size=int(size), normalize=normalize, resize=resize),
        DatasetConfig: SimpleNamespace(reading=reading),
    }
    saved = SimpleNamespace(path=Path("x.pth"), notes=(), released=None, settings=stored, given_shape=shape)
    text.print_remarks(saved, SimpleNamespace(of=configs.__getitem__))
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("stored", "reading", "line"),
    [
        ({"img_size": 224, "lr": 1}, AS_STORED, "--img_size 448: x.pth was trained with img_size 224"),
        (
            {"img_size": "448", "normalize": "centred", "resize": "published"},
            AS_STORED,
            "--normalize unit, --resize antialias: x.pth was trained with normalize centred, resize published",
        ),
        ({"exif": "apply"}, AS_STORED, "--exif ignore: x.pth was trained with exif apply"),
        ({"exif": None}, Reading("apply"), "--exif apply: x.pth was trained with exif ignore"),
        (
            {"value_range": (0.0, 4095.0)},
            Reading("ignore", (0.0, 255.0)),
            "--value_range 0.0,255.0: x.pth was trained with value_range 0.0,4095.0",
        ),
    ],
)
def test_images_prepared_in_another_way_than_in_training_are_warned_of(capsys, stored, reading, line):
    assert told_of(capsys, stored, reading=reading) == f"warning: {line}; metrics will differ\n"
    assert told_of(capsys, {**stored, "model": "given/7"}, reading=reading, shape=(7,)) == ""


def test_images_prepared_as_in_training_are_not(capsys):
    assert told_of(capsys, {"img_size": "448", "normalize": "unit"}) == ""
    assert told_of(capsys, {"exif": "apply", "value_range": "0.0,9.0"}, reading=Reading("apply", (0.0, 9.0))) == ""


def test_a_handful_of_images_is_not_compared_with_a_published_figure(capsys):
    lines = printed(capsys, groups={"head": 0.625}, published=PUBLISHED)
    assert lines[1] == f"  mAP      {figures()['mAP']:6.2f}"
    assert lines[-4:-1] == [
        "  head      62.50",
        "  not compared with the published mAP 90.25, head 50.00: it is of 4,952 test images, these are 4 (0.08 %)",
        "  published: x-voc07, A paper (its page)",
    ]


def test_a_second_network_must_fit_the_first(monkeypatch):
    def network(number, classes, name="a.pth"):
        def build():
            return (number, classes)

        return SimpleNamespace(path=Path(name), num_classes=number, classes=classes, build=build, released=None)

    first = network(2, ("a", "b"))
    assert command._networks(first, None, None) == [(first, (2, ("a", "b")))]
    for fits, other in (
        (True, network(2, ("a", "b"), "b.pth")),
        (True, network(2, (), "b.pth")),
        (True, network(2, ("b", "a"), "b.pth")),
        (False, network(3, ("a", "b"), "b.pth")),
        (False, network(3, (), "b.pth")),
    ):
        monkeypatch.setattr(command, "read_model", lambda path, other=other: other)
        if fits:
            assert command._networks(first, Path("b.pth"), None) == [(first, first.build()), (other, other.build())]
        else:
            with pytest.raises(UserError, match=r"--ensemble b\.pth: trained on other classes than a\.pth"):
                command._networks(first, Path("b.pth"), None)


class Fixed(torch.nn.Module):
    """A network of fixed scores."""

    def __init__(self, *scores):
        super().__init__()
        self.scores = torch.tensor([scores])

    def forward(self, images, want=frozenset()):
        return ModelOutput(self.scores)


def test_each_of_two_networks_is_put_in_the_order_of_the_dataset():
    def of(*classes):
        return SimpleNamespace(path=Path("x.pth"), classes=classes, num_classes=3, released=None)

    first, second = (of("owl", "cat", "dog"), Fixed(3.0, 1.0, 2.0)), (of("dog", "owl", "cat"), Fixed(20.0, 30.0, 10.0))
    assert command._joined([first], TEST, "voc07")(None).logits.tolist() == [[1, 2, 3]]
    views = command._joined([first, second], TEST, "voc07").views(None)
    assert (views["f"].tolist(), views["g"].tolist()) == ([[1, 2, 3]], [[10, 20, 30]])
    pair = Peers(Fixed(3.0, 1.0, 2.0), Fixed(0.0, 0.0, 0.0))
    views = command._joined([(first[0], pair), second], TEST, "voc07").views(None)
    assert (views["f"].tolist(), views["g"].tolist()) == ([[1, 2, 3]], [[10, 20, 30]])
    with pytest.raises(UserError, match="only the checkpoint has emu; only voc07 has dog"):
        command._joined([first, (of("owl", "cat", "emu"), second[1])], TEST, "voc07")
