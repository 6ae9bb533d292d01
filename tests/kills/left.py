"""What a run leaves, less what a clock says, and how two such things differ."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

_FREE = ("output", "resume", "export_labels")


def left(folder: Path) -> dict[str, Any]:
    """Everything that a finished run left in its folder."""
    state = torch.load(folder / "last" / "state.pth", weights_only=True)
    position = state["loop"]["position"]
    best = torch.load(folder / "best.pth", weights_only=True)
    best["settings"] = {name: value for name, value in best["settings"].items() if name not in _FREE}
    result = json.loads((folder / "result.json").read_text())
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for clocked in (position, result, *position["history"], *rows):
        clocked.pop("seconds", None)
        clocked.pop("images_per_second", None)
    arrays = {path.name: _arrays(path) for path in sorted(folder.glob("*.np[yz]"))}
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return {"state": state, "best": best, "result": result, "metrics": rows, "arrays": arrays, "files": files}


def _arrays(path: Path) -> dict[str, torch.Tensor]:
    content = np.load(path)
    held = {"": content} if isinstance(content, np.ndarray) else dict(content)
    return {name: torch.from_numpy(values.copy()) for name, values in held.items()}


def differences(one: Any, other: Any, trail: str = "") -> Iterator[str]:
    """Names of what is not the same in two nested things, tensors bit for bit."""
    if type(one) is not type(other):
        yield f"{trail}: {type(one).__name__} and {type(other).__name__}"
    elif isinstance(one, torch.Tensor):
        if (one.dtype, one.shape) != (other.dtype, other.shape) or _bytes(one) != _bytes(other):
            yield trail
    elif isinstance(one, Mapping):
        if one.keys() != other.keys():
            yield f"{trail}: {sorted(map(str, one.keys() ^ other.keys()))[:3]}"
        for key in one.keys() & other.keys():
            yield from differences(one[key], other[key], f"{trail}/{key}")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"{trail}: {len(one)} and {len(other)} entries"
        for number, (mine, theirs) in enumerate(zip(one, other, strict=False)):
            yield from differences(mine, theirs, f"{trail}/{number}")
    elif one != other and not (one != one and other != other):
        yield f"{trail}: {one} and {other}"


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def rubbish(folder: Path) -> list[str]:
    """What a kill may leave and the run behind it cleans up: temporaries, a lock, lines that are not whole."""
    names = [path.name for path in folder.rglob("*") if path.name.endswith(".tmp") or path.name == ".lock"]
    for line in (folder / "log.jsonl").read_text().splitlines():
        try:
            json.loads(line)
        except ValueError:
            names.append(f"log.jsonl: {line[:30]}")
    return names
