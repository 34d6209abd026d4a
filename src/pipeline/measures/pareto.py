"""The Pareto front of settings: those that no other beats in both benefit and damage."""

import numpy as np
from jaxtyping import Bool, Float


def pareto_front(
    benefit: Float[np.ndarray, " settings"], damage: Float[np.ndarray, " settings"]
) -> Bool[np.ndarray, " settings"]:
    """Mask the settings that no other equals or exceeds in benefit at as little or less damage.

    Equal settings are all on the front; NaN is on none.
    """
    better = (benefit[:, None] >= benefit) & (damage[:, None] <= damage)
    strictly = (benefit[:, None] > benefit) | (damage[:, None] < damage)
    beaten = np.asarray(better & strictly).any(axis=0)
    front: np.ndarray = ~beaten & np.isfinite(benefit) & np.isfinite(damage)
    return front
