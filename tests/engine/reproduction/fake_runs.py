"""Training scripts that only pretend, and plans of them."""

import csv
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from unittest import mock

import yaml

from engine.core.settings import parse_settings
from engine.reproduction import planned
from engine.reproduction.command import reproduce_command
from utils.checks import RunError, UserError

DEFAULTS = {"dataset": "digits", "labels": "candidate"}
PLAN = {
    "title": "A plan",
    "flags": "--dataset digits",
    "seeds": [1, 2],
    "regimes": {"easy": "--partial_rate 0.1", "hard": "--partial_rate 0.4"},
    "rows": [{"name": "BCE", "command": "main_BCE.py"}, {"name": "AN", "command": "main_BCE.py --loss an --lr 0.5"}],
}


def score(values):
    """Test mAP of a pretended run: higher with the learning rate, the seed and fewer wrong labels."""
    return 0.5 + values["lr"] / 10 + values["seed"] / 100 - values["partial_rate"] / 10


class FakeScript:
    """Takes the flags of a plan and writes down which runs it has made.

    Args:
        trained: a file that gets a line per run, for it is made in another process.
        act: called with the settings of each run before it is made.
    """

    DEFAULTS = DEFAULTS

    def __init__(self, trained, act=lambda values: None):
        self.trained, self.act = trained, act

    def __call__(self):
        return self

    def main(self, words):
        values = values_of(words)
        with self.trained.open("a") as file:
            file.write(f"{values['loss']} {values['partial_rate']} {values['seed']} {values['lr']}\n")
        self.act(values)
        write_run(Path(values["output"]), values["loss"], score(values))
        return 0

    @property
    def lines(self):
        return self.trained.read_text().splitlines() if self.trained.exists() else []


def values_of(words):
    """The values that the words of a plan set."""
    given = " ".join(words).replace("=", " ").replace("--resume", "").split()
    texts = dict(zip(given[::2], given[1::2], strict=True))
    values = {"loss": "bce", "lr": 0.01, "partial_rate": 0.1, "seed": 0}
    return values | {flag.removeprefix("--"): _typed(text) for flag, text in texts.items()}


def _typed(text):
    with suppress(ValueError):
        return float(text) if "." in text else int(text)
    return text


def write_run(folder, method, value, labels="a" * 64, **more):
    """The files of a finished run but for its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    test = {"mAP": value, "CF1": value / 2, "OF1": value / 4, "mAP@3": 0.1, "CP": None}
    by_epoch = [
        {"epoch": n, "validation_mAP": value - 0.1 / n, "test_mAP": value + n / 100, "test_CF1": 0.5} for n in (1, 2)
    ]
    result = {"method": method, "dataset": "digits", "labels": "candidate", "test": test, "last": test}
    result |= {
        "selected_epoch": 2,
        "validation": {"mAP": value - 0.05},
        "label_hash": labels,
        "data": {"test": "b" * 64},
    }
    result |= {
        "best_on_test": {"chosen_on": "the test set", "epoch": 1, "mAP": value + 0.02},
        "versions": {"torch": "2"},
    }
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(by_epoch[0]))
        writer.writeheader()
        writer.writerows(by_epoch)
    (folder / "result.json").write_text(json.dumps(result | more))


def fails_with(error, **wanted):
    """Raises for runs with these values."""

    def act(values):
        if all(values[name] == value for name, value in wanted.items()):
            raise error

    return act


def is_killed(once, **wanted):
    """Kills its process for runs with these values; the first time only where `once` is a file that is made then."""

    def act(values):
        if all(values[name] == value for name, value in wanted.items()) and not (once and once.exists()):
            if once:
                once.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def write_plan(folder, content=PLAN, name="plan.yaml", **changes):
    """A plan as a file; parts that are None are left out."""
    path = Path(folder) / name
    whole = {key: value for key, value in {**content, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return path


_PARSED = {}
"""Settings by flags, read once for all tests: they are most of the time that a plan takes."""


def parsed_once(command, flags, request=None):
    """What `parse_settings` gives; the request is made where it is not known yet."""
    if flags not in _PARSED:
        _PARSED[flags] = parse_settings(command, flags)
    return _PARSED[flags]


def reproduce(path, script, *words):
    """The command in this process, runs in forked ones."""
    with (
        mock.patch.object(planned, "parse_settings", parsed_once),
        mock.patch.object(planned, "Request", return_value=None),
    ):
        return reproduce_command([str(path), *map(str, words)], scripts={"main_BCE.py": script}, start="fork")


__all__ = ["RunError", "UserError"]
