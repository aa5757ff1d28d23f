"""Whether two fits came out the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn


def arrays(fit: Any) -> dict[str, np.ndarray]:
    """All weights and buffers of a network, or all that a fit leaves behind."""
    state = fit.state_dict() if isinstance(fit, nn.Module) else fit.state()
    return {name: np.array(value.cpu().numpy() if hasattr(value, "cpu") else value) for name, value in state.items()}


def equal(one: Any, other: Any, without: tuple[str, ...] = ()) -> bool:
    """Whether they are equal to the bit, but for arrays whose names begin so."""
    first, second = (
        {name: value.tobytes() for name, value in arrays(fit).items() if not name.startswith(without)}
        for fit in (one, other)
    )
    return first == second
