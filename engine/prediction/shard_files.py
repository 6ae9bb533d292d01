"""The content of a shard, the predictions of some thousand images: a row per label, as CSV or Parquet."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from engine.prediction.predictor import Label
from utils.checks import UserError
from utils.csv_cells import csv_text

HEADER = ("path", "rank", "label", "score")
UNREADABLE_HEADER = ("path", "reason")
_ROWS = 65_536  # of a row group of Parquet


class LabelledImage(NamedTuple):
    """An image and its labels, best first."""

    path: str
    labels: Sequence[Label]


class ShardContent(Protocol):
    """A file in the making."""

    def add(self, images: Sequence[LabelledImage]) -> None:
        """Add the rows of some images."""

    def finish(self) -> bytes:
        """The file; nothing is added after that."""


class CsvShard:
    """`path,rank,label,score`, the rows of `--csv`: scores with six decimals, no row for an image without labels."""

    def __init__(self) -> None:
        self._texts = [csv_text([HEADER])]

    def add(self, images: Sequence[LabelledImage]) -> None:
        """Add the rows of some images."""
        self._texts.append(csv_text(label_rows(images)))

    def finish(self) -> bytes:
        """The file, UTF-8; bytes of file names that are no UTF-8 stay as they are."""
        return "".join(self._texts).encode("utf-8", "surrogateescape")


class ParquetShard:
    r"""The same columns with their types, scores as they are; bytes of names that are no UTF-8 become `\xff`.

    Raises: UserError when pyarrow is not installed.
    """

    def __init__(self) -> None:
        pa, parquet = _pyarrow()
        types = (pa.string(), pa.int32(), pa.string(), pa.float32())
        self._schema = pa.schema(list(zip(HEADER, types, strict=True)))
        self._file = io.BytesIO()
        self._writer = parquet.ParquetWriter(self._file, self._schema)
        self._rows: list[tuple[str, int, str, float]] = []

    def add(self, images: Sequence[LabelledImage]) -> None:
        """Add the rows of some images."""
        self._rows += [
            (os.fsencode(image.path).decode("utf-8", "backslashreplace"), rank, label.name, label.score)
            for image in images
            for rank, label in enumerate(image.labels, 1)
        ]
        if len(self._rows) >= _ROWS:
            self._write()

    def finish(self) -> bytes:
        """The file."""
        self._write()
        self._writer.close()
        return self._file.getvalue()

    def _write(self) -> None:
        pa, _ = _pyarrow()
        columns = [list(column) for column in zip(*self._rows, strict=True)] or [[] for _ in HEADER]
        self._writer.write_table(pa.table(columns, schema=self._schema))
        self._rows = []


FORMATS: dict[str, type[CsvShard] | type[ParquetShard]] = {"csv": CsvShard, "parquet": ParquetShard}


def label_rows(images: Sequence[LabelledImage]) -> list[tuple[Any, ...]]:
    """Rows of CSV: path, rank from 1, label, score with six decimals."""
    return [
        (image.path, rank, label.name, f"{label.score:.6f}")
        for image in images
        for rank, label in enumerate(image.labels, 1)
    ]


def _pyarrow() -> tuple[Any, Any]:
    """The packages `pyarrow` and `pyarrow.parquet`. Raises: UserError when they are not installed."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UserError("--shard_format parquet: needs pyarrow: pip install pyarrow, or take csv") from error
    return pa, parquet
