"""Mutation testing: how many small changes of behaviour the fast tests notice.

    python -m tools.mutants cover --work DIR                 # which tests reach which function, once
    python -m tools.mutants plan --work DIR --seed 7         # choose the changes
    python -m tools.mutants run --work DIR --seed 7          # try them and print the table
    python -m tools.mutants diff --work DIR --seed 7 M012    # show what changes do

The checkout is read by `cover` alone, which copies it to DIR; all else is of that copy, so work may go on beside it.
A run that was stopped goes on where it was; a plan that is made anew forgets its results. The tests are those that
pytest selects by default, without the slow ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.mutants.copies import copy_project, import_libraries
from tools.mutants.cover import cover
from tools.mutants.plan import QUOTA, Mutant, choose, load_plan, save_plan, shown
from tools.mutants.reach import Reach
from tools.mutants.run import load_results, table, try_all

ROOT = Path(__file__).resolve().parents[2]


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m tools.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("cover", "plan", "run", "diff"))
    parser.add_argument("ids", nargs="*", help="only these changes of the plan")
    parser.add_argument("--work", type=Path, required=True, help="folder for plans, copies and results")
    parser.add_argument("--root", type=Path, default=ROOT, help="cover: the project")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str]) -> int:
    """Do one step; returns the exit code."""
    given = arguments(argv)
    work: Path = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    root, plan, reach = work / "unchanged", work / f"plan-{given.seed}.json", work / "reach.json"
    if given.what == "cover":
        found = cover(copy_project(given.root.resolve(), root), tuple(QUOTA), work, given.jobs)
        found.save(reach)
        sys.stdout.write("".join(f"fails without any change: {test}\n" for test in found.failed))
        return 1 if found.failed else 0
    if given.what == "plan":
        save_plan(plan, choose(root, given.seed))
        results_of(work, given.seed).unlink(missing_ok=True)
        return 0
    chosen = [mutant for mutant in load_plan(plan) if not given.ids or mutant.id in given.ids]
    if given.what == "diff":
        sys.stdout.write("\n\n".join(shown(root, mutant) for mutant in chosen) + "\n")
        return 0
    return run(root, chosen, Reach.load(reach), work, given)


def results_of(work: Path, seed: int) -> Path:
    """The file of results of a seed."""
    return work / f"results-{seed}.jsonl"


def run(root: Path, chosen: Sequence[Mutant], reach: Reach, work: Path, given: argparse.Namespace) -> int:
    """Try the changes and print the table; those named on the command line are tried again."""
    import_libraries()
    results = results_of(work, given.seed)
    if given.ids:
        kept = [line for line in results.read_text().splitlines() if not any(f'"{each}"' in line for each in given.ids)]
        results.write_text("".join(f"{line}\n" for line in kept))
    for _ in try_all(root, chosen, reach, work, results, given.jobs):
        pass
    sys.stdout.write(table(sorted(load_results(results), key=lambda result: result.id)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
