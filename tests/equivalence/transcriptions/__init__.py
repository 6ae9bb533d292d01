"""One published training loop per file, in plain PyTorch: nothing from `losses`, `engine`, `models` or `data`."""
