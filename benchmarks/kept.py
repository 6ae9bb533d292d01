"""Results that outlive a benchmark that was cut short: a JSON file, from which a later call goes on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Kept:
    """Results by name, written as soon as they are there.

    Args:
        path: the file; None keeps them in memory alone.
        resume: go on with what the file holds; else it is begun anew.
        seconds: after which nothing new is measured.
    """

    path: Path | None
    resume: bool = False
    seconds: float = float("inf")
    found: dict[str, Any] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.resume and self.path is not None and self.path.exists():
            self.found = json.loads(self.path.read_text(encoding="utf-8"))

    @property
    def is_late(self) -> bool:
        """True when time is over."""
        return time.monotonic() - self.began >= self.seconds

    def describe(self, machine: str) -> None:
        """Write down on what machine it all was measured, and how busy that was before the first start."""
        load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
        self.found.setdefault("machine", f"{machine}; load before the start {load}")

    def once(self, name: str, measure: Callable[[], Any]) -> None:
        """Measure something, unless it has been or time is over, and write it down."""
        if name in self.found or self.is_late:
            return
        began = time.monotonic()
        self.found[name] = measure()
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
