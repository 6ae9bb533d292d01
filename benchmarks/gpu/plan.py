"""What every part of the check is told, and the file that it fills."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Plan:
    """Device, time and place of one part.

    Args:
        device: `cuda`, or `cpu` to try the check itself.
        seconds: after which nothing new is begun.
        output: folder of the results.
        small: few cases of small shapes, so that two cores go through all parts in minutes.
    """

    device: str
    seconds: float
    output: Path
    small: bool = False
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.seconds - (time.monotonic() - self.began)

    @property
    def on_gpu(self) -> bool:
        """True on a GPU."""
        return self.device == "cuda"

    def synchronize(self) -> None:
        """Wait until the device has done everything."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def write(self, part: str, content: Any) -> None:
        """Write what a part has found so far, and so keep it when time runs out."""
        self.output.mkdir(parents=True, exist_ok=True)
        path = self.output / f"{part}.json"
        path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def reason(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
