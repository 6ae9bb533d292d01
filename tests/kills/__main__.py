"""Kill runs of every method again and again, go on with them, and hold what they leave against a run nobody disturbed.

    python -m tests.kills --work DIR                          # 4 chains of each run, 1 to 3 kills each
    python -m tests.kills --work DIR --methods bce,role --chains 20 --kills 3 --seed 1
    python -m tests.kills --work DIR --methods label_state --processes 2 --chains 3
    python -m tests.kills --work DIR --page benchmarks/results/kills.md

`--methods` takes names, `methods` (every method), `besides` (what a run may keep besides) or `label_state`. A program
that is stopped goes on with the same command. Exit code 0 when every chain ended as the undisturbed run.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")  # of those killed

import torch

from tests.kills.chains import Bench, Chain
from tests.kills.methods import ALL, BESIDES, METHODS, WITH_LABEL_STATE
from tests.kills.plan import KINDS

GROUPS = {"methods": tuple(METHODS), "besides": tuple(BESIDES), "label_state": WITH_LABEL_STATE}
ROOT = Path(__file__).resolve().parents[2]

HEAD = """# Runs that are killed

Each chain is a run that is killed up to three times in a row and goes on with `--resume` each time: after a random
share of its time, in a file that is half written, whole but not renamed, or just renamed, in the middle of a line of
the log, or by SIGTERM. It counts as equal when `best.pth`, the last state (every tensor bit for bit), recorded labels,
`metrics.csv` and `result.json` are those of a run that nobody disturbed, less what a clock says, and neither temporary
files nor half lines are left.
"""


def main(argv: Sequence[str]) -> int:
    """Try chains, print a line for each run; returns the exit code."""
    given = _parsed(argv)
    if given.project.resolve() != ROOT:  # the code of another checkout is imported from there
        os.chdir(given.project)
        rest = [word for word in argv if word not in ("--project", str(given.project))]
        os.execv(sys.executable, [sys.executable, "-m", "tests.kills", *rest, "--work", str(given.work.absolute())])
    torch.set_num_threads(1)
    names = [each for word in given.methods.split(",") if word for each in GROUPS.get(word, (word,))] or list(ALL)
    given.work.mkdir(parents=True, exist_ok=True)
    done = {name: _tried(name, given) for name in names}
    if given.json:
        content = {name: [chain._asdict() for chain in chains] for name, chains in done.items()}
        given.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    page = table(done, given)
    sys.stdout.write(page)
    if given.page:
        given.page.write_text(f"{HEAD}\n{page}", encoding="utf-8")
    return int(any(chain.fault for chains in done.values() for chain in chains))


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """What the command line says."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser("python -m tests.kills", description=summary)
    parser.add_argument("--project", type=Path, default=ROOT, help="checkout whose code is run (default: this one)")
    parser.add_argument("--work", type=Path, required=True, help="folder of its own, for runs and outcomes")
    parser.add_argument("--methods", default="", help="names or groups, with commas between (default: all)")
    parser.add_argument("--chains", type=int, default=4, help="chains of each run")
    parser.add_argument("--kills", type=int, default=3, help="kills of a chain at most")
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of kills, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="processes of each run")
    parser.add_argument("--json", type=Path, help="file to write all chains to")
    parser.add_argument("--page", type=Path, help="file to write the table to")
    parser.add_argument("--draw", action="store_true", help="draw the figures of each run too (slow)")
    return parser.parse_args(argv)


def _tried(name: str, given: argparse.Namespace) -> list[Chain]:
    """The chains of a run, those that are missing made now; one of number -1 where not even the whole run ends."""
    file = given.work / f"chains-{name}-{given.processes}-{given.seed}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    chains = [Chain(**json.loads(line)) for line in lines][: given.chains]
    if len(chains) < given.chains:
        bench = Bench(given.work, name, processes=given.processes, draw=given.draw)
        whole = bench.whole()
        if isinstance(whole, str):
            sys.stdout.write(f"{name}: {whole}\n")
            return [Chain(name, -1, 0, [], whole)]
        for number in range(len(chains), given.chains):
            kinds = given.kinds.split(",")
            chains.append(bench.attempt(number, whole, seed=given.seed, kills=given.kills, kinds=kinds))
            with file.open("a", encoding="utf-8") as opened:
                opened.write(json.dumps(chains[-1]._asdict()) + "\n")
    for chain in chains:
        if chain.fault:
            sys.stdout.write(f"{name} {chain.number}: {'; '.join(chain.trail)}: {chain.fault}\n")
    return chains


def table(done: dict[str, list[Chain]], given: argparse.Namespace) -> str:
    """A Markdown table of how many chains of each run ended equal."""
    lines = ["| run | chains | equal | kills |", "| --- | ---: | ---: | ---: |"]
    rows = {**done, "all": [chain for found in done.values() for chain in found]}
    for name, chains in rows.items():
        equal, kills = sum(not chain.fault for chain in chains), sum(chain.kills for chain in chains)
        lines.append(f"| {name} | {len(chains)} | {equal} | {kills} |")
    flags = f"--chains {given.chains} --kills {given.kills} --seed {given.seed} --processes {given.processes}"
    methods = f" --methods {given.methods}" if given.methods else ""
    return "\n".join(lines) + f"\n\n`python -m tests.kills --work DIR{methods} {flags}`\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
