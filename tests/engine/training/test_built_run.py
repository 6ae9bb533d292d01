"""In which order a run is built: what can be refused comes before images are read. More of its parts."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from engine.training import run as room
from engine.training.run import Run
from tests.engine.run_folders import settings_of
from utils.checks import RunError

READING = ("check_data", "keep_data")
"""What reads images, which may take hours."""


class Told:
    """Stands in for `engine.training.setup`: notes what is asked for, and gives what is held under its name."""

    def __init__(self, **held):
        self.names, self.held = [], held

    def __getattr__(self, name):
        return lambda *given, **named: self.names.append(name) or self.held.get(name, name)


@pytest.fixture
def build(monkeypatch):
    def built(*words, main=True, given=None, scores=None, begun=True):
        split = SimpleNamespace(ids=("a",))
        data = SimpleNamespace(observed="observed", train=split, hashes=lambda: {"test": "t"}, found={"classes": 3})
        told = Told(
            whole_batches=data,
            keep_data=data,
            training_batches_of=[1, 2],
            given_features=given,
            prior_scores=scores,
            fixed_network=None,
        )
        monkeypatch.setattr(room, "setup", told)
        for name in ("build_data", "require_takes", "run_info"):
            held = {"build_data": data, "run_info": {"info": 1}}.get(name)
            monkeypatch.setattr(
                room, name, lambda *_, name=name, held=held, **named: told.names.append((name, *named.items())) or held
            )
        for name in ("_build_loop", "_build_eval_model", "_resume"):
            monkeypatch.setattr(Run, name, lambda run, name=name: told.names.append(name) or SimpleNamespace(state=1))
        started = []
        folder = SimpleNamespace(
            fewer_epochs=lambda *_: None,
            found=lambda *_: {},
            start=lambda *given: started.append(given),
            is_begun=begun,
        )
        runtime = SimpleNamespace(main_first=nullcontext, is_main=main)
        run = Run(settings_of("bce", words), folder, runtime)
        return run, told.names, started

    return built


@pytest.mark.parametrize("main", [True, False])
def test_what_can_be_refused_is_looked_at_before_images_are_read_and_states_come_last(build, main):
    run, names, started = build(main=main)
    reading = names.index("check_data")
    assert [names.index(name) for name in READING] == [reading, reading + 1]
    before = ("require_schedule", "selection_of", "prior_scores", "build_network", "training_batches_of")
    made = ("build_criterion", "build_recorder")
    for name in (("build_data", ("need_images", True), ("new", False)), ("require_takes",), *before, *made):
        assert names.index(name) < reading, name
    assert names[reading + 2 :][:2] == ["fixed_network", "build_loaders"]
    assert names[-1 - main] == "_resume"
    assert run.hashes == {"test": "t"}
    assert run.scored == {}
    assert [info for _, info in started] == ([{"info": 1, "data": {"test": "t"}}] if main else [])


def test_features_of_a_file_are_known_by_their_hash(build):
    run, names, _ = build("--features", "x.npz", given=SimpleNamespace(content_hash="f"))
    assert run.hashes == {"test": "t", "features": "f"}
    assert ("build_data", ("need_images", False), ("new", False)) in names


@pytest.mark.parametrize("words, new", [((), True), (("--features", "x.npz"), False)])
def test_a_new_run_on_images_is_told_as_such(build, words, new):
    _, names, _ = build(*words, given=SimpleNamespace(content_hash="f") if words else None, begun=False)
    assert ("build_data", ("need_images", new), ("new", new)) in names


def test_scores_from_outside_are_known_by_their_hash_beside_features(build):
    given, scores = SimpleNamespace(content_hash="f"), SimpleNamespace(content_hash="s")
    run, _, _ = build("--features", "x.npz", given=given, scores=scores)
    assert run.hashes == {"test": "t", "features": "f", "prior_scores": "s"}


def test_weights_are_saved_with_classes_settings_and_images_where_the_folder_is_still_ours(monkeypatch):
    saved = []
    monkeypatch.setattr(room, "save_model", lambda *args, **named: saved.append((args, named)))
    run = SimpleNamespace(
        folder=SimpleNamespace(best="best.pth", lock=SimpleNamespace(require_held=lambda: None)),
        data=SimpleNamespace(train=SimpleNamespace(classes=("a",), ids=("x.jpg",))),
        settings=SimpleNamespace(values={"lr": 0.5}),
        reported="network",
    )
    Run._save_best(run, 7)
    assert saved == [(("best.pth", "network", ("a",), {"lr": 0.5}, 7), {"trained_on": ("x.jpg",)})]

    def lost():
        raise RunError("removed")

    run.folder.lock.require_held = lost
    with pytest.raises(RunError, match="removed"):
        Run._save_best(run, 8)
    assert len(saved) == 1


@pytest.mark.parametrize("estimates", [True, False])
def test_class_priors_are_estimated_of_the_training_set_or_those_of_the_criterion(monkeypatch, estimates):
    monkeypatch.setattr(room, "estimates_priors", lambda criterion, record: estimates and record == "record")
    monkeypatch.setattr(room, "estimated_priors", lambda *given: given)
    run = SimpleNamespace(
        criterion=SimpleNamespace(class_priors=lambda: "of the criterion"),
        recorder=SimpleNamespace(config="record"),
        eval_model="model",
        loaders=SimpleNamespace(scoring=lambda split: f"loader of {split}"),
        data=SimpleNamespace(train=range(7)),
        runtime="runtime",
    )
    expected = ("model", "loader of train", 7, "runtime") if estimates else "of the criterion"
    assert Run._class_priors(run) == expected
