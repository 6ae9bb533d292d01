from pathlib import Path

from engine.core.identity import default_identity, differing, identity_of, same_run
from engine.core.setting_table import settings_of
from engine.training.config import RunConfig
from tests.engine.run_folders import settings_of as parsed


def test_places_of_files_and_devices_do_not_count_and_folders_may_move():
    found = identity_of(
        {"lr": 0.007, "output": Path("a"), "device": "cpu", "label_file": Path("x/y.npy"), "weights": "z/w.pth"}
        | {"rates": (1.0, 2.0), "table": (Path("p/a.csv"), Path("q/b.csv")), "train_seed": None}
    )
    expected = {"lr": "0.007", "label_file": "y.npy", "weights": "w.pth", "rates": "1.0,2.0", "table": "a.csv,b.csv"}
    assert found == expected | {"train_seed": ""}


def test_the_same_command_elsewhere_is_the_same_run():
    here = identity_of(parsed("bce", ["--dataset", "digits", "--lr", "1e-3", "--output", "a"]).values)
    there = identity_of(parsed("bce", ["--dataset", "digits", "--lr", "0.001", "--device", "cpu"]).values)
    assert here == there
    assert here["seed"] == "0"


def test_a_setting_that_came_later_has_its_default_in_an_older_run():
    defaults = default_identity(settings_of(RunConfig, "run"))
    assert defaults["epochs"] == "30"
    older = {name: text for name, text in defaults.items() if name != "epochs"}
    assert same_run(defaults, older, defaults)
    assert not same_run({**defaults, "epochs": "31"}, older, defaults)
    assert same_run(defaults, {**defaults, "gone": "1"}, defaults)
    assert not same_run({"lr": "1"}, {"lr": "2"}, {"lr": "1"})


def test_what_runs_differ_in():
    runs = [{"lr": "1", "seed": "0"}, {"lr": "2", "seed": "0"}, {"lr": "1", "seed": "0", "beta": "3"}]
    assert differing(runs) == {"lr": ("1", "2"), "beta": ("", "3")}
    assert differing(runs[:1]) == {}
