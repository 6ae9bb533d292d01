"""Finished runs that differ in their seed alone, taken together; and what else runs differ in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.analysis.finished_runs import FinishedRun
from engine.core.identity import differing, identity_of
from engine.core.run_results import HEADLINE
from utils.seed_statistics import Spread, paired_difference, spread

SEEDS = ("seed", "train_seed")


def grouped(runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
    """Runs of one method and the same settings but for the seed, groups in the order of their first runs."""
    groups: dict[tuple[object, ...], list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault((run.method, *sorted(_but_seeds(run).items())), []).append(run)
    return list(groups.values())


def seed_table(runs: Sequence[FinishedRun]) -> list[str]:
    """Lines of mean and deviation (%) over seeds, and of the mAP gained over the first group, paired by seed.

    None where no settings have run with several seeds.
    """
    groups = grouped(runs)
    if all(len({run.settings["seed"] for run in group}) == 1 for group in groups):
        return []
    names = group_names(groups)
    width = max(len("means"), *map(len, names))
    lines = ["", f"{'means':{width}}  {'seeds':>5}" + "".join(f"{name:>15}" for name in HEADLINE)]
    for name, group in zip(names, groups, strict=True):
        spreads = [spread([100 * run.result["test"][figure] for run in group]) for figure in HEADLINE]
        gain = "" if group is groups[0] else _gain(group, groups[0], names[0])
        lines.append(f"{name:{width}}  {len(group):5}" + "".join(f"{_shown(each):>15}" for each in spreads) + gain)
    return lines


def group_names(groups: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """The label of each group; where several share it, with the settings in which these differ."""
    names = []
    for group in groups:
        alike = [each[0] for each in groups if each[0].label == group[0].label]
        apart = differing(_but_seeds(run) for run in alike)
        own = _but_seeds(group[0])
        told = ", ".join(f"{name} {own.get(name, '')}".strip() for name in apart)
        names.append(f"{group[0].label} ({told})" if told else group[0].label)
    return names


def setting_notes(runs: Sequence[FinishedRun]) -> list[str]:
    """Notes on settings other than those of methods in which runs differ, and on rules by which epochs are selected."""
    identities = [_but_seeds(run) for run in runs]
    of_methods = {name for run in runs for name in type(run.method_config).__dataclass_fields__}
    shared = set(identities[0]).intersection(*identities[1:]) - of_methods
    apart = {name: texts for name, texts in differing(identities).items() if name in shared}
    notes = []
    if apart:
        told = "; ".join(f"{name} {', '.join(text or 'none' for text in texts)}" for name, texts in apart.items())
        notes.append(f"note: not the same settings: {told}")
    rules = list(dict.fromkeys(str(run.result["selection"]) for run in runs if "selection" in run.result))
    if len(rules) > 1:
        notes.append(f"note: epochs are not selected by the same rule: {', '.join(rules)}")
    return notes


def _but_seeds(run: FinishedRun) -> dict[str, str]:
    """The settings of a run, without seeds."""
    return {name: text for name, text in identity_of(run.settings).items() if name not in SEEDS}


def _by_seed(group: Sequence[FinishedRun]) -> Mapping[int, float]:
    """Test mAP (%) by seed."""
    return {run.settings["seed"]: 100 * run.result["test"]["mAP"] for run in group}


def _gain(group: Sequence[FinishedRun], base: Sequence[FinishedRun], name: str) -> str:
    """Words on the paired gain over the first group; empty where they share no seed."""
    gain = paired_difference(_by_seed(group), _by_seed(base))
    if gain is None:
        return ""
    interval = "" if gain.low is None else f" [{gain.low:+.2f}, {gain.high:+.2f}]"
    return f"  mAP {gain.mean:+.2f}{interval} over {name}, {gain.seeds} seeds"


def _shown(found: Spread) -> str:
    return f"{found.mean:.2f}" if found.deviation is None else f"{found.mean:.2f} ± {found.deviation:.2f}"
