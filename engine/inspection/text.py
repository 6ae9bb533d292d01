"""The report of `inspect_data.py` as text: aligned tables, the problems, and one verdict line last."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from engine.inspection.report import ReportDict

_WIDEST = 28  # characters of a class name
_EXAMPLES = 40  # characters of examples of a column
_BINS = 10  # columns of the histogram of labels per image, besides the last


def as_text(report: ReportDict, top: int) -> str:
    """The lines of a report; `top` entries of each long list."""
    blocks = (_heading, _columns, _entries, _splits, _noise, _histogram, _images, _pairs, _class_table, _problems)
    texts = ["\n".join(block(report, top)) for block in blocks]
    return "\n\n".join(text for text in texts if text)


def _heading(report: ReportDict, top: int) -> Iterator[str]:
    labels = report["labels"]
    seed = "" if labels["seed"] is None else f", seed {labels['seed']}"
    file = "" if labels["file"] is None else f", from {labels['file']}"
    yield f"{report['dataset']}: {len(report['classes'])} classes; training sees {labels['regime']}{seed}{file}"


def _columns(report: ReportDict, top: int) -> Iterator[str]:
    """What each column of a user's table is for; with the table where there are several."""
    rows = [
        [column["title"][:_WIDEST], column["role"], column["why"], ", ".join(column["examples"])[:_EXAMPLES]]
        for column in report["columns"]
    ]
    heading = ["column", "is", "because", "for instance"]
    if len({column["table"] for column in report["columns"]}) > 1:
        heading = ["table", *heading]
        rows = [[column["table"][-_WIDEST:], *row] for column, row in zip(report["columns"], rows, strict=True)]
    if rows:
        yield from _table([heading, *rows[: 3 * top]], aligned="<")
        if len(rows) > 3 * top:
            yield f"and {len(rows) - 3 * top} more columns (report.json)"


def _entries(report: ReportDict, top: int) -> Iterator[str]:
    """Entries of a user's table that a policy decides, and how far annotators agree."""
    counts = {"uncertain (-1)": "uncertain", "blank": "blank", "between 0 and 1": "soft"}
    entries = report["entries"]
    rows = [row for row in entries if any(row[key] for key in counts.values()) or row["agreement"] is not None]
    if rows:
        agreed = [["" if row["agreement"] is None else _percent(row["agreement"])] for row in rows]
        figures = [[row["class"][:_WIDEST], *(f"{row[key]:,}" for key in counts.values())] for row in rows]
        cells = [[*left, *right] for left, right in zip(figures, agreed, strict=True)]
        yield from _table([["in the table", *counts, "annotators agree"], *cells[: 3 * top]])


def _splits(report: ReportDict, top: int) -> Iterator[str]:
    """One column per split, and one for the labels that training sees."""
    parts = {**report["splits"], "seen in training": report["observed"]}
    rows = [
        ["", *parts],
        ["images", *(f"{part['images']:,}" for part in parts.values())],
        ["labels per image", *(f"{part['labels_an_image']:.2f}" for part in parts.values())],
        ["label density", *(_percent(part["label_density"]) for part in parts.values())],
        ["entries unknown", *(_percent(_unknown_share(part)) for part in parts.values())],
        ["images without positive", *(f"{part['images_without_positive']:,}" for part in parts.values())],
        ["images all unknown", *(f"{part['images_all_unknown']:,}" for part in parts.values())],
        ["classes without positives", *(f"{len(part['classes_without_positives']):,}" for part in parts.values())],
        ["most / least frequent", *(_number(part["imbalance"]) for part in parts.values())],
    ]
    yield from _table(rows)
    for key, title in (("class_groups", "classes by training images"), ("dataset_groups", "the dataset's own groups")):
        groups = report["splits"]["train"][key]
        if groups:
            yield f"{title}: " + ", ".join(f"{name} {len(chosen)}" for name, chosen in groups.items())


def _noise(report: ReportDict, top: int) -> Iterator[str]:
    seen, true = report["observed"], report["splits"]["train"]["present"]
    lost = seen["unlabelled"] + seen["denied"]
    yield "the labels that training sees"
    if not seen["compared"]:
        yield "  are all that is known of the truth: how many of them are wrong or missing is unknown"
        return
    yield f"  wrong    {_percent(seen['wrong_share'])}  {seen['wrong']:,} of {seen['judged']:,} labelled present"
    yield f"  lost     {_percent(seen['lost_share'])}  {lost:,} of {true:,} true labels are not labelled present"
    if seen["hiding"]:
        among = _percent(seen["present_among_unknown"])
        yield f"  hidden   {among}  of {seen['hiding']:,} unknown entries are present in truth"
    if untold := seen["labelled"] - seen["judged"] + seen["unknown"] - seen["hiding"]:
        yield f"  untold   the truth of {untold:,} more entries is unknown"


def _histogram(report: ReportDict, top: int) -> Iterator[str]:
    parts = {**report["splits"], "seen in training": report["observed"]}
    yield from _table(
        [
            ["images with so many labels", *map(str, range(_BINS)), f"{_BINS}+"],
            *([name, *(f"{count:,}" for count in _binned(part["images_by_labels"]))] for name, part in parts.items()),
        ]
    )


def _images(report: ReportDict, top: int) -> Iterator[str]:
    parts = {name: part["pictures"] for name, part in report["splits"].items()}
    rows = [["image files", *parts], ["missing", *(f"{part['missing']:,}" for part in parts.values())]]
    if not report["duplicates"]["checked"]:
        yield from _table(rows)
        yield "not decoded and not compared: --no-check_images"
        return
    rows.append(["broken", *(f"{part['broken']:,}" for part in parts.values())])
    for side in ("width", "height"):
        rows.append([f"{side}, min median max", *(_range(part[side]) for part in parts.values())])
    for title, key in (("stored as", "modes"), ("kept as", "files")):
        for kind in dict.fromkeys(kind for part in parts.values() for kind in part[key]):
            rows.append([f"{title} {kind}", *(f"{part[key].get(kind, 0):,}" for part in parts.values())])
    yield from _table(rows)


def _pairs(report: ReportDict, top: int) -> Iterator[str]:
    pairs = report["co_occurrence"]["pairs"][:top]
    if pairs:
        yield "most often together in training (of the images with the first, so many have the second)"
        named = [f"{_short(pair['given'])} -> {_short(pair['then'])}" for pair in pairs]
        width = max(map(len, named))
        for name, pair in zip(named, pairs, strict=True):
            counted = f"{pair['images']:,} of {pair['of']:,}"
            yield f"  {name:{width}}  {_percent(pair['share'])}  {counted}, {pair['lift']:.1f} x the usual share"


def _class_table(report: ReportDict, top: int) -> Iterator[str]:
    """The most and the least frequent classes of the training set."""
    others = [name for name in report["splits"] if name != "train"]
    header = ["class", "present", "absent", "unknown", "labelled", "wrong", "lost", *(f"{name}" for name in others)]
    ranked = sorted(report["classes"], key=lambda one: -one["train"]["present"])
    compared = report["observed"]["compared"]
    rows = [[_short(one["name"]), *_class_figures(one, others, compared)] for one in ranked]
    if len(rows) > 2 * top:
        between = [f"({len(rows) - 2 * top} between)", *[""] * (len(header) - 1)]
        rows = [*rows[:top], between, *rows[-top:]]
    yield "classes by training images: truth, what training sees of it, and positives elsewhere"
    yield from _table([header, *rows])


def _class_figures(one: ReportDict, others: Sequence[str], compared: bool) -> Iterator[str]:
    train, seen = one["train"], one["observed"]
    lost = seen["unlabelled"] + seen["denied"]
    for count in (train["present"], train["absent"], train["unknown"], seen["labelled"]):
        yield f"{count:,}"
    yield _percent(seen["wrong"] / seen["judged"] if seen["judged"] and compared else None)
    yield _percent(lost / train["present"] if train["present"] and compared else None)
    yield from (f"{one[name]['present']:,}" for name in others)


def _problems(report: ReportDict, top: int) -> Iterator[str]:
    for problem in report["problems"]:
        yield f"{problem['level']}: {problem['text']}"
        which = [*problem["which"][:top], *(["... (more in report.json)"] if len(problem["which"]) > top else [])]
        if all(len(text) <= _WIDEST for text in which):  # names of classes: side by side
            yield from textwrap.wrap(", ".join(which), 110, initial_indent="  ", subsequent_indent="  ")
        else:
            yield from (f"  {text}" for text in which)
    yield _verdict(report)


def _verdict(report: ReportDict) -> str:
    levels = [problem["level"] for problem in report["problems"]]
    errors, notes = levels.count("error"), levels.count("note")
    known = f"{notes} {'note' if notes == 1 else 'notes'}" if notes else "nothing to note"
    if errors:
        return f"verdict: not usable as it is, {errors} {'error' if errors == 1 else 'errors'}, {known}"
    return f"verdict: usable, {known}" + ("" if report["duplicates"]["checked"] else "; images were not decoded")


def _table(rows: Sequence[Sequence[str]], aligned: str = ">") -> Iterator[str]:
    """Lines of a table with columns as wide as needed, the first aligned left, the others right (`<`: left too)."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            f"{row[0]:{widths[0]}}",
            *(f"{cell:{aligned}{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        yield "  ".join(cells).rstrip()


def _binned(counts: Sequence[int]) -> Iterable[int]:
    """Numbers of images with 0, 1, ... labels; the last counts all with `_BINS` labels or more."""
    padded = [*counts, *[0] * _BINS]
    return [*padded[:_BINS], sum(padded[_BINS:])]


def _unknown_share(part: ReportDict) -> float | None:
    entries = part["present"] + part["absent"] + part["unknown"]
    return part["unknown"] / entries if entries else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:5.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _range(value: ReportDict | None) -> str:
    return "-" if value is None else f"{value['min']} {value['median']:.0f} {value['max']}"


def _short(name: str) -> str:
    text = " ".join(name.split())
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."
