"""Where work is done."""

import torch

from modeval.errors import SpecError


def choose_device(name: str) -> torch.device:
    """Return a device by name (auto, cpu, cuda, cuda:N); refuse what is absent.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SpecError(f"device = {name!r}: expected auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise SpecError(f"device = {name!r}: expected auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SpecError(
            f"device = {name!r}: this machine has {torch.cuda.device_count()} CUDA devices that "
            "PyTorch can use. Use --device cpu."
        )
    return device
