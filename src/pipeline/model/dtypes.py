"""Choose the dtype and the device of a model."""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_dtype(name: str) -> None:
    """Check the name of a dtype.

    Raises:
        ValueError: neither `auto` nor one of `DTYPES`.
    """
    if name != "auto" and name not in DTYPES:
        raise ValueError(f"dtype {name!r} is unknown; valid: auto, {', '.join(DTYPES)}")


def resolve_dtype(name: str, device: str, stored: torch.dtype | None) -> str:
    """Return the name of the dtype that `auto` stands for; another name stays.

    `auto` is the dtype of the file, but on a CPU float32 in place of float16, and of bfloat16 if
    the processor has no instructions for it: it would take several times as long.

    Args:
        name: `auto`, or one of `DTYPES`.
        device: where the model will run.
        stored: dtype of the model's file.

    Raises:
        ValueError: an unknown name.
    """
    check_dtype(name)
    if name != "auto":
        return name
    names = {dtype: own for own, dtype in DTYPES.items()}
    of_file = names.get(stored or torch.float32, "float32")
    slow = of_file == "float16" or (of_file == "bfloat16" and not has_bfloat16())
    return "float32" if slow and device.startswith("cpu") else of_file


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 numbers natively."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def choose_device(name: str) -> str:
    """Resolve a device name; `auto` is CUDA, else MPS, else the CPU.

    Raises:
        ValueError: the device is unknown or not available on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    usable = [*(kind for kind, usable in available.items() if usable), "cpu"]
    if name == "auto":
        return usable[0]
    if name.partition(":")[0] not in usable:
        raise ValueError(
            f"device {name!r} is not on this machine; valid: auto, {', '.join(usable)}"
        )
    return name
