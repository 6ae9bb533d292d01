"""The end of a GPU's memory, told in one line with the settings that help where it came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from re import search

from utils.checks import RunError

NO_GPU_MEMORY = r"CUDA (error: )?out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
"""What PyTorch says when a GPU has no memory left: a pattern."""


@contextmanager
def gpu_memory_told(doing: str, remedies: Sequence[str]) -> Iterator[None]:
    """A block in which the end of a GPU's memory is a RunError that says what to do.

    Args:
        doing: what goes on in the block, such as "scoring".
        remedies: settings that need less memory there, the best first.
    """
    try:
        yield
    except RuntimeError as error:
        if not search(NO_GPU_MEMORY, str(error)):
            raise
        raise RunError(f"the GPU has no memory left for {doing}; give {' or '.join(remedies)}") from None


def remedies_in_training(precision: str, *, memories: bool) -> list[str]:
    """Settings that need less memory in a step; `memories`: label memories are on the GPU."""
    return [
        "a smaller --batch_size",
        *_half(precision),
        *(["--label_memory host"] if memories else []),
    ]


def remedies_in_scoring(precision: str) -> list[str]:
    """Settings that need less memory where nothing is trained."""
    return ["a smaller --eval_batch_size", *_half(precision)]


def _half(precision: str) -> list[str]:
    return ["--precision bf16"] if precision == "fp32" else []
