"""The page of the results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import markdown_table

Found = Mapping[str, Any]


def page(folder: Path) -> str:
    """Markdown of the files that the parts wrote; a part that has none is left out."""
    parts = {"summary": _machine, "tests": _tests, "parity": _parity, "resume": _resume}
    parts |= {"waits": _waits, "steps": _steps, "loader": _loader}
    lines = ["# On a GPU", "", "Written by `python -m benchmarks.gpu` (`make gpu-check`)."]
    for name, written in parts.items():
        path = folder / f"{name}.json"
        if path.exists():
            lines += ["", *written(json.loads(path.read_text(encoding="utf-8")))]
    return "\n".join(lines) + "\n"


def _machine(found: Found) -> Iterator[str]:
    yield ", ".join(f"{name} {value}" for name, value in found["machine"].items()) + "."
    yield ""
    yield "Seconds: " + ", ".join(f"{name} {part['seconds']}" for name, part in found["parts"].items()) + "."
    if found.get("notes"):
        yield ""
        yield from (f"- {note}" for note in found["notes"])


def _tests(found: Found) -> Iterator[str]:
    yield "## Tests with the GPU in place"
    yield ""
    yield f"{found['passed']} passed, {len(found['failed'])} failed ({found['summary'].strip('= ')})."
    if found["failed"]:
        yield ""
        yield from (f"- {line}" for line in found["failed"])


def _parity(found: Found) -> Iterator[str]:
    yield "## CPU and GPU, from one start"
    yield ""
    yield "Largest relative differences after two steps of an early and of a late epoch, float32 without TF32."
    yield ""
    columns = ("losses of epoch 1", "losses", "method", "network")
    rows = [(name, *_cells(row, columns)) for name, row in found["steps"].items()]
    yield markdown_table(("method", *columns), rows)
    yield ""
    yield "Whole runs on digits by the plain commands, seed 0, test figures in %."
    yield ""
    columns = ("mAP", "CF1", "OF1", "loss", "images/s")
    yield markdown_table(("run", *columns), [(name, *_cells(row, columns)) for name, row in found["digits"].items()])


def _resume(found: Found) -> Iterator[str]:
    yield "## Killed and resumed"
    yield ""
    yield "Tensors of the state at the end that are not bit for bit those of an undisturbed run, and the largest gap."
    yield ""
    columns = ("again", "killed", "to the CPU")
    rows = [(name, *(_difference(row, column) for column in columns)) for name, row in found.items()]
    yield markdown_table(("run", "the same run again", "killed and resumed", "resumed on the CPU"), rows)


def _difference(row: Found, name: str) -> str:
    if "error" in row:
        return str(row["error"])
    found = row.get(name)
    if found is None:
        return ""
    if "tensors" not in found:
        return f"failed: {found['said'][-100:]}"
    return f"{found['unequal']} of {found['tensors']}" + (f", {found['largest']:.1e}" if found["unequal"] else "")


def _waits(found: Found) -> Iterator[str]:
    yield "## Waits within a step"
    yield ""
    some = {name: places for name, places in found.items() if places}
    yield f"{len(found) - len(some)} of {len(found)} cases wait for nothing{'. The others, by epoch:' if some else '.'}"
    yield ""
    yield from (f"- {name}: {places}" for name, places in some.items())


def _steps(found: Found) -> Iterator[str]:
    for table in found.get("tables", ()):
        yield from _table(table, found["peak"]["bf16 TFLOP/s"])
        yield ""
    if turns := found.get("settling"):
        yield "NDLP passes another number of images a second time in every step, and cuDNN plans anew for each number."
        yield f"Milliseconds a step, turns of 25 steps one after the other: {', '.join(map(str, turns))}."


def _table(table: Found, peak: float) -> Iterator[str]:
    shape, bare = table["shape"], table["bare"]["bare"]
    yield f"## {shape['model']}, {shape['size']} px, batch {shape['batch']}, {table['precision']}"
    yield ""
    if "error" in bare:
        yield f"failed: {bare['error']}"
        return
    share = bare["flops"] / bare["ms"] / 1e9 / peak
    yield f"Bare step {bare['ms']} ms, {1e3 * shape['batch'] / bare['ms']:.0f} images/s, {100 * share:.1f} % of the "
    yield f"{peak:.0f} TFLOP/s that a large bf16 product reaches here. Work: floating-point operations of a step"
    yield "against the bare one's; the last column is what is left of the bare network's speed at that work."
    columns = ("ms", "issued ms", "GiB")
    for title, rows in (("network alone", table["bare"]), ("method", table.get("methods", {}))):
        yield ""
        cells = [(name, *_cells(row, columns), *_compared(bare, row)) for name, row in rows.items()]
        yield markdown_table((title, *columns, "bare / this", "work", "speed at that work"), cells)


def _compared(bare: Found, row: Found) -> list[str]:
    """The speed of a step against that of the bare network, its work, and the speed at equal work."""
    if "ms" not in row:
        return ["", "", ""]
    faster = bare["ms"] / row["ms"]
    if "flops" not in row:
        return [f"{faster:.2f}", "", ""]
    work = row["flops"] / bare["flops"]
    return [f"{faster:.2f}", f"{work:.2f}", f"{faster * work:.2f}"]


def _loader(found: Found) -> Iterator[str]:
    yield "## From files"
    yield ""
    yield f"JPEG of {found['side']}, {found['KB per file']} KB, {found['cores']} cores; images/s."
    yield ""
    columns = ("images/s", "first batch s")
    rows = [(name, *_cells(row, columns)) for name, row in found["loader"].items()]
    decoded = "decoded by the GPU, 64 files at once"
    rows += [(f"torchcodec alone, {decoded}", *_cells(found[decoded], columns))] if decoded in found else []
    yield markdown_table(("loader alone", *columns), rows)
    yield ""
    columns = ("images/s", "with images in memory", "of the slower of step and loader")
    rows = [(name, *_cells(row, columns)) for name, row in found["training"].items()]
    published = "published way: Pillow in the process that trains, resnet101 fp32, 448 px"
    rows += [(published, *_cells(found["published way"], columns))] if "published way" in found else []
    yield markdown_table(("CoNeS", *columns), rows)


def _cells(row: Found, columns: tuple[str, ...]) -> list[str]:
    """The numbers of a row as text; in place of the first, what went wrong."""
    trouble = row.get("error") or row.get("said")
    if trouble:
        return [f"failed: {trouble[-100:]}", *[""] * (len(columns) - 1)]
    return ["" if row.get(name) is None else _text(row[name]) for name in columns]


def _text(value: Any) -> str:
    return f"{value:.1e}" if isinstance(value, float) and 0 < abs(value) < 1e-2 else str(value)
