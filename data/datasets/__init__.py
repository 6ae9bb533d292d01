"""One dataset, one file: each reader turns a `Source` into `Splits`."""

from data.datasets.source import Source

__all__ = ["Source"]
