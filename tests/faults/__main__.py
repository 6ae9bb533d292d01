"""Thousands of mutated files of every kind, and a page of how the commands took them.

    python -m tests.faults --work DIR                        # 1,000 of each kind; a run that was stopped goes on
    python -m tests.faults --work DIR --only "VOC xml" --each 50 --seed 3
    python -m tests.faults --work DIR --page benchmarks/results/faults.md

Exit code 0 if every file was read or refused in one clear line.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.faults.kinds import KINDS
from tests.faults.trial import Bench, Kind, Outcome

ENDS = ("read", "refused")


def main(argv: Sequence[str]) -> int:
    """Try, print the faults and the table; returns the exit code."""
    parser = argparse.ArgumentParser("python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for outcomes")
    parser.add_argument("--each", type=int, default=1000, help="trials of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", action="append", default=[], help="only this kind; may be repeated")
    parser.add_argument("--page", type=Path, help="file to write the table to")
    given = parser.parse_args(argv)
    given.work.mkdir(parents=True, exist_ok=True)
    chosen = [kind for kind in KINDS if not given.only or kind.name in given.only]
    try_all(chosen, given.work, given.each, given.seed, given.jobs)
    outcomes: dict[str, list[Outcome]] = {}
    for kind in chosen:
        outcomes.setdefault(kind.row, []).extend(outcomes_of(file_of(kind, given.work, given.seed))[: given.each])
    faults = [outcome for found in outcomes.values() for outcome in found if outcome.is_fault]
    for fault in faults:
        sys.stdout.write(f"{fault.kind} {fault.number}: {fault.end}: {fault.words}\n")
    page = table(outcomes, given.seed)
    sys.stdout.write(page)
    if given.page:
        given.page.write_text(f"{HEAD}\n{page}", encoding="utf-8")
    return 1 if faults else 0


HEAD = """# Files of other people, mutated

Each trial changes one file of a small valid folder: bits, ranges, numbers, words, lines, encodings; keys and values of
what it holds once parsed; a call inside a pickle; the file gone, or a folder in its place. A command then reads the
folder as a user would. *Refused*: exit code 2 (1 once training had begun) and one line; *named*: the share of these
lines with the name of the file. *Faults*: a traceback, a hang (60 s), a death, an unclear message, code that ran.
"""


def table(outcomes: dict[str, list[Outcome]], seed: int) -> str:
    """A Markdown table of how many trials of each kind ended how."""
    lines = ["| kind | trials | read | refused | named | faults |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for kind, found in outcomes.items():
        ends = Counter(outcome.end for outcome in found)
        named = sum(outcome.named for outcome in found if outcome.end == "refused") / max(1, ends["refused"])
        faults = sum(outcome.is_fault for outcome in found)
        lines.append(f"| {kind} | {len(found)} | {ends['read']} | {ends['refused']} | {named:.0%} | {faults} |")
    tried = sum(map(len, outcomes.values()))
    faults = sum(outcome.is_fault for found in outcomes.values() for outcome in found)
    lines.append(f"| all | {tried} | | | | {faults} |")
    return "\n".join(lines) + f"\n\n`python -m tests.faults --work DIR --seed {seed}`\n"


def try_all(kinds: Sequence[Kind], work: Path, each: int, seed: int, jobs: int) -> None:
    """Make what is missing of the trials, each kind in processes of its own, which may die."""
    waiting, running = list(kinds), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            kind = waiting.pop(0)
            if len(outcomes_of(file_of(kind, work, seed))) < each:
                running[_fork(kind, work, each, seed)] = kind
        if running:
            process, status = os.wait()
            kind = running.pop(process)
            if os.waitstatus_to_exitcode(status):
                file = file_of(kind, work, seed)
                said = f"exit code {os.waitstatus_to_exitcode(status)}"
                _add(file, Outcome(kind.name, len(outcomes_of(file)), "dies", False, said))
                waiting.insert(0, kind)


def _fork(kind: Kind, work: Path, each: int, seed: int) -> int:
    """Start the trials of a kind in a process of its own; returns its id."""
    process = os.fork()
    if process:
        return process
    folder = Path(tempfile.mkdtemp())
    try:
        file = file_of(kind, work, seed)
        bench = Bench(kind, folder / "files")
        bench.is_read()  # imports what the commands need: an alarm amid an import breaks all that follow
        for number in range(len(outcomes_of(file)), each):
            _add(file, bench.attempt(number, seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0 if sys.exc_info()[0] is None else 1)


def file_of(kind: Kind, work: Path, seed: int) -> Path:
    """Where the outcomes of a kind are kept, a line each."""
    return work / f"{kind.name.replace(' ', '_')}-{seed}.jsonl"


def outcomes_of(file: Path) -> list[Outcome]:
    """The outcomes that are there."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [Outcome(**json.loads(line)) for line in lines]


def _add(file: Path, outcome: Outcome) -> None:
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(outcome._asdict()) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
