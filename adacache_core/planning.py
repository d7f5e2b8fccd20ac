"""Places the computed steps of a run before it starts, from its noise levels alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# A plan never skips more than this many steps in a row; the forecast is not trusted farther.
MAXIMUM_GAP = 16


def flow_time(sigma: float, sigma_max: float) -> float:
    """Flow-matching time in 0..1 of a sigma: itself for flow models (sigma_max <= 1), else sigma / (1 + sigma)."""
    return sigma if sigma_max <= 1 else sigma / (1 + sigma)


def error_weight(time: Tensor) -> Tensor:
    """How much an error made at a flow time weighs in the end.

    The curvature of the model's output along the trajectory, times how far the steps that follow amplify an error: a
    closed form close to what was measured on two small Wan models (30 steps, shift 3). The first steps decide where
    things are and amplify errors up to 14 times; the last ones change fast.
    """
    return (1.02 - time).clamp(min=0.02) ** -3.4 + 7 + 0.2 / time.clamp(min=0.02) ** 2


def plan(
    times: Sequence[float],
    computes: int,
    forced: frozenset[int] | set[int],
    order: int = 2,
    correction: Callable[[Tensor], Tensor] | None = None,
) -> tuple[int, ...]:
    """Choose which steps compute, by dynamic programming over pairs of successive computes.

    Minimises the sum over replayed steps j of ``|dt_j| w(t_j) |t_j - t_b| [|t_j - t_a|]`` with b and a the
    last two computes before j (the bracket is the second term of a linear forecast's error, order 2 only).

    Args:
        times: flow time of every step, descending.
        computes: how many steps compute; raised to the number of forced steps where it is less.
        forced: steps that compute in any case; must hold the first two.
        order: 1 or 2, see ``PlannedSchedule``.
        correction: factor of w at flow times (float64 tensor of any shape), see ``Calibration``; None is 1.

    Returns:
        The computed steps, ascending.
    """
    total = len(times)
    computes = min(max(computes, len(forced)), total)
    if computes == total or total < 3:
        return tuple(range(total))
    gaps = min(MAXIMUM_GAP, total)
    cost = _gap_costs(torch.tensor(times, dtype=torch.float64), gaps, sorted(forced), order, correction)
    # best[b, g]: least error up to compute b whose predecessor is b - g (index g - 1), after k computes.
    best = torch.full((total, gaps), torch.inf, dtype=torch.float64)
    best[1, 0] = 0.0
    came_from = []
    for _ in range(computes - 2):
        value, gap_before = (best[:, :, None] + cost).min(dim=1)
        best = torch.full_like(best, torch.inf)
        back = torch.zeros(total, gaps, dtype=torch.long)
        for gap in range(1, gaps + 1):
            best[gap:, gap - 1] = value[:-gap, gap - 1]
            back[gap:, gap - 1] = gap_before[:-gap, gap - 1]
        came_from.append(back)
    step, gap_index = total - 1, int(best[total - 1].argmin())
    if not torch.isfinite(best[step, gap_index]):
        # So few computes that some gap would exceed the limit.
        return plan(times, computes + 1, forced, order, correction)
    steps = [step]
    for back in reversed(came_from):
        step, gap_index = step - gap_index - 1, int(back[step, gap_index])
        steps.append(step)
    return (0, *reversed(steps))


def _gap_costs(
    times: Tensor, gaps: int, forced: list[int], order: int, correction: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """Error of computing b - g, then b, then b + h: float64 ``[steps b, gaps g, gaps h]`` (index gap - 1)."""
    total = len(times)
    duration = (times - torch.cat((times[1:], times.new_zeros(1)))).abs()
    weight = duration * error_weight(times)
    if correction is not None:
        weight = weight * correction(times)
    cost = torch.full((total, gaps, gaps), torch.inf, dtype=torch.float64)
    for b in range(1, total):
        next_forced = next((step for step in forced if step > b), total)
        longest = min(gaps, next_forced - b, total - 1 - b)
        if longest < 1:
            continue
        between = slice(b + 1, b + longest)
        error = weight[between] * (times[between] - times[b]).abs()
        for gap in range(1, min(gaps, b) + 1):
            second = (times[between] - times[b - gap]).abs() if order == 2 else 1.0
            cost[b, gap - 1, 0] = 0.0
            cost[b, gap - 1, 1:longest] = (error * second).cumsum(0)
    return cost
