"""Methods against their baseline on the embedded dataset: the plain commands with several seeds, paired by seed.

    python -m benchmarks.digits cones --seeds 20 21 22 23 24 --output benchmarks/results/digits.md
    python -m benchmarks.digits large_loss --seeds 20 21 22 23 24 --output benchmarks/results/digits_large_loss.md

Runs are kept under runs/digits and not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

METRICS = ("mAP", "CF1", "OF1")
PRECISION = {
    "modified_true": "true of those modified in the last epoch",
    "modified_ever_true": "true of those ever modified",
    "unknown_true": "true of all unknown",
}


class Experiment(NamedTuple):
    """Compared methods, the first of them the baseline, and the label regimes of the comparison."""

    methods: Mapping[str, str]
    regimes: Mapping[str, str]
    ensembles: Mapping[str, str] = {}
    """Rows of two runs of a method on the same data, scored as an ensemble: name -> method."""
    dataset: str = "digits"


AS_PUBLISHED = "--confidence softmax --rejected absent --candidate_epochs 0 --gamma 3 --mu 0.1 --eta 0.9"
"""Published settings of NDLP instead of those of configs/ndlp/digits-lt.yaml."""

EXPERIMENTS = {
    "cones": Experiment(
        {"BCE": "main_BCE.py", "CoNeS": "main_CoNeS.py"},
        {"rate 0.4": "--partial_rate 0.4", "rate 0.2": "--partial_rate 0.2"},
    ),
    "large_loss": Experiment(
        {"naive AN": "main_BCE.py --loss an"}
        | {scheme: f"main_llm.py --mod_scheme {scheme} --record modification" for scheme in ("LL-R", "LL-Ct", "LL-Cp")},
        {"single": "--labels single", "75 % dropped": "--labels dropped --drop_rate 0.75"},
    ),
    "ignore": Experiment(
        {"naive AN": "main_BCE.py --loss an", "IGNORE": "main_ignore.py --record modification"},
        {"single": "--labels single"},
    ),
    "co_label": Experiment(
        {"naive AN": "main_BCE.py --loss an", "LL-R": "main_llm.py --mod_scheme LL-R --record modification"}
        | {"CLS": "main_cls.py --record modification"}
        | {name: f"main_cls.py --method {name}" for name in ("jocor", "co-teaching", "co-teaching+", "decoupling")},
        {"single": "--labels single", "75 % dropped": "--labels dropped --drop_rate 0.75"},
        {"two LL-R": "LL-R"},
    ),
    "long_tail": Experiment(
        {"BCE": "main_BCE.py", "BCE, class-aware": "main_BCE.py --sampler class-aware"}
        | {"DB": "main_BCE.py --loss db", "DB, class-aware": "main_BCE.py --loss db --sampler class-aware"}
        | {f"NDLP {kind}": f"main_ndlp.py {AS_PUBLISHED} --variant {kind}" for kind in ("reference", "fixed")}
        | {"NDLP": "main_ndlp.py"},
        {"long tail, rate 0.2": "--partial_rate 0.2", "long tail, rate 0.1": "--partial_rate 0.1"},
        dataset="digits-lt",
    ),
}

SECOND = 1000
"""Added to the seed of training for the second run of an ensemble."""


class RunOutput(NamedTuple):
    """Result and last log row of a finished run."""

    result: dict[str, Any]
    last: dict[str, str]  # the last row of its log

    def metrics(self) -> dict[str, float]:
        """Reported metrics, in %."""
        test = {name: 100 * self.result["test"][name] for name in METRICS}
        precision = {text: 100 * float(self.last[name]) for name, text in PRECISION.items() if self.last.get(name)}
        extra = self.result["extra"]
        parts = {
            f"mAP, {name}": 100 * extra[name] for name in ("head", "middle", "tail") if extra.get(name) is not None
        }
        return {**test, **parts, **precision, **together(extra)}


def together(extra: Mapping[str, Any]) -> dict[str, float]:
    """Metrics (%) of the ensemble of two networks, if there are two."""
    return {f"{name}, ensemble": 100 * extra["ensemble"][name] for name in METRICS if "ensemble" in extra}


def folder(method: str, regime: str, seed: int) -> Path:
    """Folder of a run; comparisons share the runs they have in common."""
    words = f"{regime} {method} s{seed}".replace("%", "percent").replace(",", "").split()
    return Path("runs") / "digits" / "-".join(words)


def train(experiment: str, method: str, regime: str, seed: int, output: Path, *more: str) -> None:
    """Run the plain command of a method with the flags `more`, unless it has been run."""
    if (output / "result.json").exists():
        return
    chosen = EXPERIMENTS[experiment]
    script, *flags = chosen.methods[method].split()
    plain = ["--dataset", chosen.dataset, *chosen.regimes[regime].split(), "--seed", str(seed)]
    command(script, *plain, *flags, *more, "--output", str(output), "--resume")


def command(*words: str) -> None:
    """Run a script of ours to its end. Raises: CalledProcessError when it fails."""
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


def run(experiment: str, method: str, regime: str, seed: int) -> RunOutput:
    """Read a run of the plain command, trained now unless it exists."""
    output = folder(method, regime, seed)
    train(experiment, method, regime, seed, output)
    with (output / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return RunOutput(json.loads((output / "result.json").read_text()), last)


def ensemble(experiment: str, name: str, regime: str, seed: int) -> dict[str, float]:
    """Metrics (%) of the ensemble of two independent networks: two runs of a method on the same data."""
    method = EXPERIMENTS[experiment].ensembles[name]
    first, second = (folder(each, regime, seed) for each in (method, name))
    train(experiment, method, regime, seed, second, "--train_seed", str(seed + SECOND))
    scores = second / "ensemble.json"
    networks = ("--load_from", str(first / "best.pth"), "--ensemble", str(second / "best.pth"))
    if not scores.exists():
        command("evaluate.py", *networks, "--json", str(scores))
    return together(json.loads(scores.read_text())["extra"])


def table(experiment: str, methods: Sequence[str], regime: str, seeds: Sequence[int]) -> list[str]:
    """Markdown rows per metric and method, columns per seed and the mean; last the paired differences of mAP."""
    metrics = {method: [run(experiment, method, regime, seed).metrics() for seed in seeds] for method in methods}
    for name in (name for name, method in EXPERIMENTS[experiment].ensembles.items() if method in methods):
        metrics[name] = [ensemble(experiment, name, regime, seed) for seed in seeds]
    lines = [f"| {regime} | figure | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |"]
    lines.append("| --- " * (len(seeds) + 3) + "|")
    for name in dict.fromkeys(name for each in metrics.values() for name in each[0]):
        for method in metrics:
            if name in metrics[method][0]:
                lines.append(row(method, name, [each[name] for each in metrics[method]]))
    base, *others = methods
    for method in others:
        gains = [one["mAP"] - other["mAP"] for one, other in zip(metrics[method], metrics[base], strict=True)]
        lines.append(row(f"{method} - {base}", "mAP", gains, sign="+"))
    return lines


def row(title: str, name: str, values: Sequence[float], sign: str = "") -> str:
    """Line of the table."""
    cells = " | ".join(f"{value:{sign}.2f}" for value in values)
    return f"| {title} | {name} | {cells} | {statistics.fmean(values):{sign}.2f} |"


def main() -> None:
    """Run what is missing, print the tables, write them if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--methods", nargs="+", help="some of its methods, the baseline first (default: all)")
    parser.add_argument("--regimes", nargs="+", help="some of the comparison's label regimes (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    regimes = given.regimes or list(EXPERIMENTS[given.experiment].regimes)
    methods = given.methods or list(EXPERIMENTS[given.experiment].methods)
    text = "\n\n".join("\n".join(table(given.experiment, methods, regime, given.seeds)) for regime in regimes) + "\n"
    print(text)
    if given.output:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
