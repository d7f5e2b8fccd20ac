"""The control that every choice of steps must beat: computes at even distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def evenly(
    times: Sequence[float], influences: Sequence[float], computes: int, *args: Any, **kwargs: Any
) -> tuple[str | None, ...]:
    """Stands in for ``plan``, whose other arguments it has no use for: the first three calls, the last one, and as many
    others, evenly spread, as make ``computes`` in all (4 or more).
    """
    total, spread = len(times), computes - 3
    chosen = {0, 1, *(2 + round(index * (total - 3) / spread) for index in range(spread + 1))}
    return tuple("plan" if call in chosen else None for call in range(total))
