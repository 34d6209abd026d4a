"""Stop at activations and logits that are not finite, before they become results."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def is_finite(values: Float[Tensor, "*rows values"]) -> Bool[Tensor, "*rows"]:
    """Whether all values of each row are finite.

    A sum is finite only if its terms are, and takes a thirtieth of the time of a look at each; that
    is taken where a sum is not, as finite terms can add up to more than float32 holds.
    """
    finite = values.sum(-1, dtype=torch.float32).isfinite()
    return finite if bool(finite.all()) else values.isfinite().all(-1)


def check_finite(
    finite: Bool[Tensor, " rows"], dtype: torch.dtype, what: str, under: Sequence[object] = ()
) -> None:
    """Fail if the values of a row are not finite.

    Args:
        finite: whether all values of each row are finite.
        dtype: dtype of the model, whose range may be the cause.
        what: name of the values, such as `logits`.
        under: the condition of each row.

    Raises:
        ValueError: names the number of rows, the first condition, and what would help.
    """
    if bool(finite.all()):
        return
    wrong = (~finite).nonzero()[:, 0].tolist()
    condition = f", first under {under[wrong[0]]}" if under else ""
    if dtype is torch.float16:
        hint = "float16 ends at 65504; set model.dtype to bfloat16 or float32"
    elif dtype is torch.float32:
        hint = "a smaller strength may help; if the clean run is not finite, the weights are wrong"
    else:
        hint = "a smaller strength, or model.dtype float32, may help"
    raise ValueError(
        f"{what} of {len(wrong)} of {len(finite)} rows are not finite{condition}: {hint}"
    )
