"""In which precision a network is faster on a device."""

import torch

AUTO = "auto"


def is_half(precision: str, device: torch.device) -> bool:
    """Whether a network runs in bfloat16: as it was asked for, or with "auto" where the device has instructions for it.

    An ordinary CPU has none, and takes three to four times as long in bfloat16 as in float32.

    >>> is_half("bfloat16", torch.device("cpu")), is_half("float32", torch.device("cpu"))
    (True, False)
    """
    if precision != AUTO:
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return device.type == "cpu" and any(supported is not None and supported() for supported in known)
