"""What an exception of the libraries means for the process that raised it.

Told by words, because torch raises most device errors as plain RuntimeErrors and this module must
not import torch. NVIDIA's documentation of cudaError_t says of the fatal ones: "the process must be
terminated and relaunched"; everything a process computes after one is garbage.
"""

import gc
import sys
from enum import StrEnum
from typing import Any

_FATAL_WORDS = (
    "device-side assert",
    "illegal memory access",
    "illegal address",
    "illegal instruction",
    "misaligned address",
    "invalid address space",
    "invalid program counter",
    "hardware stack error",
    "launch failure",
    "launch timed out",
    "unspecified launch",
    "uncorrectable ecc",
    "ecc error",
    "nvlink error",
    "unknown error",
    "cublas_status_execution_failed",
    "cublas_status_internal_error",
    "cudnn_status_execution_failed",
    "cudnn_status_internal_error",
    "driver shutting down",
    "cuda error: context is destroyed",
)
_MEMORY_WORDS = (
    "out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
)


class Fault(StrEnum):
    """What to do: end the process, walk down the memory ladder, or fail this task alone."""

    FATAL = "fatal"
    OUT_OF_MEMORY = "out_of_memory"
    ORDINARY = "ordinary"


def classify(error: BaseException) -> Fault:
    """What the exception, or the one that caused it, means. Out of memory is never fatal."""
    chain = _chain(error)
    if any(_is_memory(link) for link in chain):
        return Fault.OUT_OF_MEMORY
    if any(_is_fatal(link) for link in chain):
        return Fault.FATAL
    return Fault.ORDINARY


def _chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__
    return links


def _is_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(word in text for word in _MEMORY_WORDS))
    )


def _is_fatal(error: BaseException) -> bool:
    """Only the device's own errors: another library's "unknown error" is an ordinary one."""
    text = str(error).lower()
    of_device = isinstance(error, RuntimeError) and any(
        word in text for word in ("cuda", "cublas", "cudnn", "nccl", "device-side")
    )
    return of_device and any(word in text for word in _FATAL_WORDS)


def release_memory() -> None:
    """Give back what nothing refers to any more.

    Call it outside of the `except` block: the exception holds the frames, and those the tensors.
    """
    gc.collect()
    torch: Any = sys.modules.get("torch")  # of the fake family there is nothing to give back
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
