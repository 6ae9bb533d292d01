"""The parts of a run one by one, with what it is made of replaced: resuming, selecting, stopping, scoring."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from engine.core.run_folder import Saved
from engine.training import run as room
from engine.training.loop import Loop, TrainState
from engine.training.run import Run
from utils.checks import RunError, UserError

FOLDER = Path("run")


def held(*, exists=True, label_hash="b" * 64, fixed=None):
    """A run that is about to resume; `told` notes what is restored."""
    told = []
    run = SimpleNamespace(
        folder=SimpleNamespace(saved=lambda: CONTENT[0] if exists else None, path=FOLDER),
        runtime=SimpleNamespace(is_main=True),
        data=SimpleNamespace(labels=SimpleNamespace(label_hash=label_hash)),
        hashes={"train": "r" * 64, "test": "t" * 64},
        recorder=SimpleNamespace(load_state_dict=lambda given: told.append(("recorder", given))),
        loop=SimpleNamespace(load_state_dict=lambda given: told.append(("loop", given))),
        settings=SimpleNamespace(of=lambda kind: SimpleNamespace(weights="w.pth")),
        fixed=fixed,
        told=told,
    )
    run._take_state = lambda state: Run._take_state(run, state)
    return run


CONTENT = []


@pytest.fixture
def saved():
    """A state of a run on labels of the hash bbb..."""
    content = {"label_hash": "b" * 64, "recorder": {"r": 1}, "loop": {"l": 2}}
    CONTENT[:] = [Saved(FOLDER / "state.pth", content)]
    return content


def test_a_run_goes_on_from_what_was_saved(saved, capsys):
    run = held()
    Run._resume(run)
    assert run.told == [("recorder", {"r": 1}), ("loop", {"l": 2})]
    run.runtime.is_main = False
    CONTENT[0] = CONTENT[0]._replace(note="note: said by the main process")
    Run._resume(run)
    assert capsys.readouterr().err == ""


def test_a_state_that_does_not_fit_is_told_by_its_file(saved, capsys):
    del saved["loop"]
    CONTENT[0] = CONTENT[0]._replace(note="note: the last is damaged")
    with pytest.raises(UserError, match=r"^run/state\.pth: damaged, or of another run \(KeyError: 'loop'\)"):
        Run._resume(held())
    assert capsys.readouterr().err == "note: the last is damaged\n"


def ending(epoch, best_epoch=2, trained=3, main=True, epochs=3):
    """A run at its end, whose best file holds this epoch or, for None, is lost; `told` notes what it does."""
    told = []
    return SimpleNamespace(
        loop=SimpleNamespace(state=TrainState(epoch=trained + 1, best_epoch=best_epoch)),
        folder=SimpleNamespace(best=epoch),
        runtime=SimpleNamespace(is_main=main),
        reported="network",
        config=SimpleNamespace(epochs=epochs),
        scored={"test": 1},
        _save_best=lambda epoch: told.append(("saved", epoch)),
        told=told,
    )


@pytest.fixture
def best_files(monkeypatch):
    def read(epoch):
        if epoch is None:
            raise UserError("best.pth: cannot be read: No such file or directory")
        return SimpleNamespace(epoch=epoch, weights=f"of {epoch}", settings={"epochs": 3})

    monkeypatch.setattr(room, "read_model", read)


def test_the_selected_epoch_is_taken_from_its_file(best_files, monkeypatch):
    taken = []
    monkeypatch.setattr(room, "load_weights", lambda *given: taken.append(given))
    run = ending(2)
    Run._take_selected(run)
    assert (taken, run.scored, run.told) == ([("network", "of 2", 2)], {}, [])
    run = ending(3, best_epoch=3)
    Run._take_selected(run)
    assert (len(taken), run.scored, run.told) == (1, {"test": 1}, [])


@pytest.mark.parametrize("main", [True, False])
def test_the_selected_epoch_of_a_run_that_became_longer_is_written_with_its_settings(best_files, monkeypatch, main):
    taken = []
    monkeypatch.setattr(room, "load_weights", lambda *given: taken.append(given))
    run = ending(2, epochs=4, main=main)
    Run._take_selected(run)
    assert (len(taken), run.told) == (1, [("saved", 2)] if main else [])


@pytest.mark.parametrize("epoch", [None, 1])
def test_lost_weights_are_told_or_written_again(best_files, epoch):
    with pytest.raises(RunError, match=r"the weights of epoch 2, which was selected, are lost: start anew"):
        Run._take_selected(ending(epoch))
    for main in (True, False):
        run = ending(epoch, best_epoch=3, main=main)
        Run._take_selected(run)
        assert run.told == ([("saved", 3)] if main else [])


def test_without_a_saved_state_a_run_begins(saved):
    run = held(exists=False, label_hash="c" * 64)
    Run._resume(run)
    assert run.told == []


def test_a_run_on_other_labels_does_not_go_on(saved):
    run = held(label_hash="c" * 64)
    with pytest.raises(UserError, match=rf"run was trained on other labels \(hash {'b' * 12}, now {'c' * 12}\)"):
        Run._resume(run)
    assert run.told == []


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ({"train": "r" * 64, "test": "T" * 64}, "the test set of run has other images"),
        ({"train": "R" * 64, "test": "T" * 64}, "the train and the test set of run have other images"),
        ({"train": "r" * 64, "validation": "v" * 64, "test": "t" * 64}, "the validation set of run has other"),
    ],
)
def test_a_run_on_other_data_does_not_go_on(saved, before, words):
    saved["data"] = before
    run = held()
    with pytest.raises(UserError, match=f"^--resume: {words}.* or true labels now than when it began; put them back"):
        Run._resume(run)
    assert run.told == []


def test_a_run_on_the_same_data_goes_on(saved):
    saved["data"] = {"train": "r" * 64, "test": "t" * 64}
    run = held()
    Run._resume(run)
    assert len(run.told) == 2


@pytest.mark.parametrize(("hashes", "fits"), [(["x", "x"], True), (["x", "y"], False)])
def test_fixed_features_of_another_backbone_are_refused(saved, monkeypatch, hashes, fits):
    run = held(fixed=SimpleNamespace(backbone=None))
    monkeypatch.setattr(room, "weights_hash", lambda backbone: hashes.pop(0))
    if fits:
        Run._resume(run)
    else:
        with pytest.raises(UserError, match=r"features of another backbone than --weights w\.pth now gives"):
            Run._resume(run)


def selecting(selection="validation", *, early_stop=None, main=True, scheduler="step", plateau_of="mAP", **state):
    """A run between two epochs; `said` notes what it does."""
    said = []
    return SimpleNamespace(
        _save_best=lambda epoch: said.append(("saved", epoch)),
        selection=selection,
        config=SimpleNamespace(early_stop=early_stop, epochs=9),
        optim=SimpleNamespace(scheduler=scheduler, plateau_of=plateau_of),
        data=SimpleNamespace(validation=True, train=SimpleNamespace(classes=("a",), ids=("x.jpg",))),
        loop=SimpleNamespace(state=TrainState(**state), follow=lambda score: said.append(("follow", score))),
        runtime=SimpleNamespace(is_main=main),
        folder=SimpleNamespace(best="best.pth", log_epoch=lambda rows, epochs: said.append(("log", len(rows), epochs))),
        settings=SimpleNamespace(values={}),
        reported=None,
        said=said,
    )


def after(run, monkeypatch, epoch=4, validation=0.5, test=0.25):
    """What a run does after an epoch with these scores."""
    scores = {"validation": validation, "test": test}
    results = {
        split: SimpleNamespace(metrics=SimpleNamespace(mAP=value), scores=f"scores of {split}")
        for split, value in scores.items()
    }
    run._judged = lambda results: Run._judged(run, results)
    run._scores_after = lambda number, row: results
    monkeypatch.setattr(room, "say", lambda text: run.said.append(text))
    Run._after_epoch(run, epoch, {"epoch": epoch})
    assert run.scored == {}
    state = run.loop.state
    return run.said, (state.best_epoch, state.best_score, state.stopped)


@pytest.mark.parametrize(
    ("selection", "best", "expected", "kept"),
    [
        ("validation", 0.4, (4, 0.5), True),
        ("validation", 0.5, (2, 0.5), False),
        ("validation", 0.6, (2, 0.6), False),
        ("test", 0.2, (4, 0.25), True),
        ("test", 0.3, (2, 0.3), False),
        ("last", 3.0, (4, 4.0), True),
    ],
)
def test_the_first_of_the_best_epochs_is_kept(monkeypatch, selection, best, expected, kept):
    said, found = after(selecting(selection, best_epoch=2, best_score=best), monkeypatch)
    assert found == (*expected, False)
    assert said == [*([("saved", 4)] if kept else []), ("log", 1, 9)]


@pytest.mark.parametrize(
    ("best", "stops", "fallen"),
    [(0.52, False, ""), (0.53125, False, ""), (0.5315, True, "3.15"), (0.5625, True, "6.25")],
)
def test_a_run_stops_when_the_score_has_fallen_by_more_than_it_may(monkeypatch, best, stops, fallen):
    said, found = after(selecting(early_stop=3.125, best_epoch=2, best_score=best), monkeypatch)
    assert found == (2, best, stops)
    text = f"stopped early: validation mAP {fallen} points below that of epoch 2"
    assert said == [("log", 1, 9), *([text] if stops else [])]


@pytest.mark.parametrize(
    ("best", "stops"), [(-math.inf, False), (0.25, False), (0.499, False), (0.5, True), (0.5001, True), (0.75, True)]
)
def test_first_stops_a_run_where_the_score_is_no_new_best(monkeypatch, best, stops):
    said, found = after(selecting(early_stop="first", best_epoch=2, best_score=best), monkeypatch)
    assert found == ((2, best, True) if stops else (4, 0.5, False))
    text = f"stopped early: validation mAP {100 * (best - 0.5):.2f} points below that of epoch 2"
    assert said == ([("log", 1, 9), text] if stops else [("saved", 4), ("log", 1, 9)])


def test_only_the_main_process_writes(monkeypatch):
    said, found = after(selecting(main=False, early_stop=0.0, best_epoch=2, best_score=0.75), monkeypatch)
    assert (said, found) == ([], (2, 0.75, True))
    said, found = after(selecting(main=False), monkeypatch)
    assert (said, found) == ([], (4, 0.5, False))


@pytest.mark.parametrize(("validation", "followed"), [(True, 0.5), (None, 0.25)])
def test_the_plateau_follows_the_validation_split_or_else_the_test_set(monkeypatch, validation, followed):
    run = selecting("test", scheduler="plateau", plateau_of="mAP")
    run.data.validation = validation
    assert after(run, monkeypatch)[0][0] == ("follow", followed)


def test_the_plateau_follows_a_loss_with_its_sign_turned(monkeypatch):
    losses = {("scores of validation", "truth of it"): 7.5}
    monkeypatch.setattr(room, "bce_per_image", lambda *pair: losses[pair])
    run = selecting("validation", scheduler="plateau", plateau_of="loss")
    run.data.validation, run.data.test = SimpleNamespace(truth="truth of it"), None
    assert after(run, monkeypatch)[0][0] == ("follow", -7.5)


@pytest.mark.parametrize(
    ("every", "behind", "selection", "epochs"),
    [
        (1, 0, "validation", [1, 2, 3, 4, 5, 6]),
        (2, 0, "validation", [2, 4, 6]),
        (3, 3, "validation", [6]),
        (1, 4, "last", [5, 6]),
        (0, 0, "validation", []),
        (0, 9, "test", [1, 2, 3, 4, 5, 6]),
    ],
)
@pytest.mark.parametrize("validation", [True, None])
def test_the_test_set_is_scored_as_often_as_asked_for(every, behind, selection, epochs, validation):
    metrics = SimpleNamespace(as_dict=lambda: {"mAP": 0.5})
    asked = []

    def score(split, watch):
        asked.append(split)
        return SimpleNamespace(metrics=metrics, beside={"g": metrics})

    run = SimpleNamespace(
        config=SimpleNamespace(test_every=every, test_after=behind),
        selection=selection,
        data=SimpleNamespace(validation=validation, groups={}),
        _score=score,
        _watch=None,
        _calibration=lambda test: {"ECE": 0.25},
    )
    scored = []
    for epoch in range(1, 7):
        row = {}
        found = Run._scores_after(run, epoch, row)
        splits = [split for split in ("validation", "test") if split in found]
        figures = {f"{split}_{name}mAP": 0.5 for split in splits for name in ("", "g_")}
        assert row == figures | ({"test_ECE": 0.25} if "test" in found else {})
        assert ("validation" in found) is bool(validation)
        scored += [epoch] if "test" in found else []
    assert scored == epochs


@pytest.mark.parametrize("best", [4, 3])
@pytest.mark.parametrize(("main", "figures"), [(True, True), (True, False), (False, True)])
def test_at_the_end_the_selected_epoch_is_scored_beside_the_last(monkeypatch, best, main, figures):
    done, finished = [], []
    monkeypatch.setattr(room, "load_weights", lambda *args: done.append("loaded"))
    monkeypatch.setattr(
        room, "read_model", lambda path: SimpleNamespace(weights={}, epoch=best, settings={"epochs": 4})
    )
    monkeypatch.setattr(room, "result", lambda settings, data, selection, state, results: {"results": results})
    monkeypatch.setattr(room, "say", finished.append)
    monkeypatch.setattr(room, "report_priors", lambda *given: {"priors": given})
    monkeypatch.setattr(room, "report_rates", lambda *given: {"rates": given})
    run = SimpleNamespace(
        loop=SimpleNamespace(state=TrainState(epoch=5, best_epoch=best)),
        data=SimpleNamespace(
            validation=True, train=SimpleNamespace(classes=("a",)), test=SimpleNamespace(truth="truth")
        ),
        runtime=SimpleNamespace(is_main=main),
        folder=SimpleNamespace(best="best.pth", path=FOLDER, finish=finished.append, summary=lambda: "summary"),
        criterion=SimpleNamespace(noise_rates=lambda: "noise"),
        reported=None,
        scored={"test": "last"},
        settings=None,
        config=SimpleNamespace(metrics="ours", figures=figures, epochs=4),
        hashes={"test": "t" * 64},
        selection="validation",
        _write_labels=lambda: done.append("labels"),
        _write_report=lambda content, results: done.append(f"report of {results.chosen.metrics}"),
        _calibration=lambda test: f"calibration of {test.metrics}",
        _class_priors=lambda: "priors",
    )

    def score(split):
        if split not in run.scored:
            run.scored[split] = SimpleNamespace(metrics=f"new {split}")
        return run.scored[split]

    run._score, run.scored["test"] = score, SimpleNamespace(metrics="old test")
    run._take_selected = lambda: Run._take_selected(run)
    Run.finish(run)
    chosen = "new test" if best == 3 else "old test"
    drawn = [f"report of {chosen}"] if main and figures else []
    assert done == [*(["loaded"] if best == 3 else []), *(["labels"] if main else []), *drawn]
    if main:
        (content, text), hashes = finished, run.hashes
        results = content["results"]
        assert content["data"] == hashes
        assert content["priors"] == ("priors", ("a",), FOLDER)
        assert content["rates"] == ("noise", ("a",), FOLDER)
        assert (results.chosen.metrics, results.last.metrics) == (chosen, "old test")
        assert (results.validation.metrics, text) == ("new validation", "summary")
        assert results.calibration == f"calibration of {chosen}"
    else:
        assert finished == []


@pytest.mark.parametrize(
    ("device", "main", "terminal", "step", "text", "printed"),
    [
        ("cpu", True, False, 4, "loss 1.5000", ["epoch 2  step 4/10  loss 1.5000  40.0 images/s  1 s left"]),
        ("cpu", True, False, 3, "loss 2.0000", []),
        ("cpu", True, True, 4, "loss 1.5000", []),
        ("cpu", False, False, 4, "loss 1.5000", []),
        ("cuda", True, False, 3, "", []),
        ("cuda", True, False, 8, "loss 0.7500", ["epoch 2  step 8/10  loss 0.7500  40.0 images/s  0 s left"]),
    ],
)
def test_the_running_loss_is_printed_where_there_is_no_bar(monkeypatch, device, main, terminal, step, text, printed):
    said = []
    monkeypatch.setattr("engine.training.loop.say", said.append)
    monkeypatch.setattr("engine.training.loop.is_terminal", lambda: terminal)
    batches = type("Batches", (list,), {"batch_size": 8})(range(10))
    loop = SimpleNamespace(
        state=TrainState(epoch=2, step=step, images=1200, seconds=30.0),
        print_freq=4,
        runtime=SimpleNamespace(device=SimpleNamespace(type=device), is_main=main),
        batches=batches,
        _sums={"loss": np.float64(6.0)},
        _recent=[],
    )
    loop._checked_loss = lambda: Loop._checked_loss(loop)
    assert Loop._running_loss(loop, "epoch 2") == text
    assert said == printed
