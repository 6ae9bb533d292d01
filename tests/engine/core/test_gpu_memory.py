"""A GPU without memory left, pretended by the errors that PyTorch raises then."""

import pytest
import torch

from engine.core.gpu_memory import gpu_memory_told, remedies_in_scoring, remedies_in_training
from utils.checks import RunError

ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 8 GiB.\nMore."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_it_is_one_line_that_says_what_helps(error):
    with pytest.raises(RunError) as told, gpu_memory_told("scoring", ["a smaller --a", "--b", "--c"]):
        raise error
    assert str(told.value) == "the GPU has no memory left for scoring; give a smaller --a or --b or --c"


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: device-side assert"), ValueError("CUDA out of memory"), MemoryError()]
)
def test_other_errors_are_left_alone(error):
    with pytest.raises(type(error)) as told, gpu_memory_told("scoring", ["--a"]):
        raise error
    assert told.value is error


def test_what_helps_nothing_is_not_named():
    batch, half, host = "a smaller --batch_size", "--precision bf16", "--label_memory host"
    assert remedies_in_training("fp32", memories=True) == [batch, half, host]
    assert remedies_in_training("fp32", memories=False) == [batch, half]
    assert remedies_in_training("bf16", memories=True) == [batch, host]
    assert remedies_in_training("fp16", memories=False) == [batch]
    assert remedies_in_scoring("fp32") == ["a smaller --eval_batch_size", half]
    assert remedies_in_scoring("bf16") == ["a smaller --eval_batch_size"]
