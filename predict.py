"""Labels of images by a trained checkpoint, or its export for other programs.

For instance:

    python predict.py holiday.jpg photos/ --load_from runs/my/best.pth
    python predict.py photos/ --load_from best.pth --json labels.json --html labels.html --heatmaps maps
    python predict.py photos/ --load_from best.pth --shards labels --num_workers 8 --resume
    python predict.py --load_from best.pth --export onnx --output model.onnx

Exit code 0: done; 1: done, but for images that could not be read; 2: what was asked cannot be done.
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.core.usage import check_usage


def main(argv: Sequence[str] | None = None) -> int:
    """Predict or export; returns the exit code."""
    check_usage("predict.py", argv)
    from engine.prediction.command import predict_command  # takes seconds to import, torch with it

    return predict_command(argv)


if __name__ == "__main__":
    run(main)
