"""Where golden values come from: `GOLDEN_DIR` where it is set, else `tests/golden`.

`load("x.npz")` skips the test, naming the file, when `GOLDEN_DIR` holds no such file. `cases(golden)` yields the
name and the arrays of each case listed in the file's own `meta`, so that no test knows a case, shape or parameter.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent / "golden"


def path(name: str) -> Path:
    """The golden file `name`; skips the calling test where it is absent."""
    file = Path(os.environ.get("GOLDEN_DIR", HERE)) / name
    if not file.exists():
        pytest.skip(f"no golden file {file}")
    return file


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`, by name."""
    with np.load(path(name), allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def load_json(name: str, part: str | None = None) -> Any:
    """The content of a `.json`, or one part of it; skips the calling test where that part is absent."""
    held = json.loads(path(name).read_text())
    if part is not None and part not in held:
        pytest.skip(f"no {part} in the golden file {name}")
    return held if part is None else held[part]


def meta(golden: dict[str, np.ndarray]) -> dict[str, Any]:
    """The description stored beside the arrays."""
    return json.loads(str(golden["meta"]))


def part(golden: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, which is taken off; skips the calling test where there are none."""
    found = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
    if not found:
        pytest.skip(f"no golden arrays {prefix}*")
    return found


def cases(golden: dict[str, np.ndarray]) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """For each case of `meta`: its parameters, and its arrays with the prefix taken off."""
    for case in meta(golden)["cases"]:
        prefix = case["prefix"]
        yield case, {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}


def each_case(name: str) -> list[Any]:
    """The cases of the golden file `name` for `parametrize("case, arrays", ...)`; one named skip where it is absent."""
    file = Path(os.environ.get("GOLDEN_DIR", HERE)) / name
    if not file.exists():
        return [pytest.param(None, None, id=name, marks=pytest.mark.skip(reason=f"no golden file {file}"))]
    return [pytest.param(case, arrays, id=str(case.get("name", case["prefix"]))) for case, arrays in cases(load(name))]
