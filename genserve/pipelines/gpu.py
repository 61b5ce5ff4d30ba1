"""Whether torch can use the GPU that this process was given."""

import torch


class UnusableDevice(Exception):
    """`reason` is a short text of ours."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def check() -> None:
    """Put something on the GPU. Raises `UnusableDevice`."""
    if torch.version.cuda is None:
        raise UnusableDevice("this torch is built without CUDA; install torch's CUDA build")
    if not torch.cuda.is_available():
        raise UnusableDevice("torch finds no usable GPU; `genserve doctor` tells more")
    try:
        torch.zeros(1, device="cuda").add_(1).item()
    except RuntimeError:
        raise UnusableDevice("the GPU refuses to work; nvidia-smi may say why") from None
