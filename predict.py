"""Labels of pictures by a trained checkpoint, or the checkpoint as a file for other programs.

For instance:

    python predict.py holiday.jpg photos/ --load_from runs/my/best.pth
    python predict.py photos/ --load_from best.pth --json labels.json --html labels.html --heatmaps maps
    python predict.py --load_from best.pth --export onnx --output model.onnx

Exit code 0: done; 1: done, but for pictures that could not be read; 2: what was asked cannot be done.
"""

import sys
from collections.abc import Sequence

from engine.core.cli import run
from engine.prediction.command import predict_command


def main(argv: Sequence[str] | None = None) -> int:
    """Predict or export; returns the exit code."""
    return predict_command(sys.argv[1:] if argv is None else argv, program="predict.py")


if __name__ == "__main__":
    run(main)
