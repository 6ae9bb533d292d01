"""Seconds of an epoch by the numbers of images, classes and processes: pieces, a model of them, its check."""
