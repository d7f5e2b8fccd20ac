"""Which calls of the model compute, chosen before sampling: step-size control for a predictor of known error.

A forecast's error has a known shape between computes and a known size along the way of noise levels, so the best places
for a number of computes can be told in advance, whatever the number of steps, the scheduler and the shift.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .forecast import variable
from .steps import Steps

# Ratio of all calls to computed ones.
SPEEDUPS = {"quality": 1.5, "balanced": 2.0, "fast": 3.0}
# What they compute at least, however short the run: fewer are far from the result. Of a part of a run (two experts),
# whose first call computes anyway, ``_LEAST_OF_PART``.
_LEAST_OF = {"quality": 7, "balanced": 6, "fast": 5}
_LEAST_OF_PART = 4
# Where predictions bend: see ``curvature``. Fitted.
_BENT = 0.2
# A forecast is not trusted over more calls in a row.
MAXIMUM_GAP = 16
# Nor is the first prediction, which is held until there is another, beyond this error: nothing later makes it good.
# Fitted to the worst tenth of videos.
MAXIMUM_HELD = 1.2
# The first call computes, another one, since a trend needs two points, and the last one, since nothing after it could
# make good.
LEAST = 3
# With fewer calls than this every one changes the result too much to be forecast: distilled few-step models.
FEWEST_CALLS = 8
# A part of a longer run (two experts, SplitSigmas) may be as short as this, if the whole has twice ``FEWEST_CALLS``.
FEWEST_OF_PART = 5
# What the last compute is made of goes into the result as it is, and what is handed on nothing has made good for.
LAST, HANDED_ON = 2.0, 4.0


def computes_of(preset: str, calls: int, steps: Steps | None = None) -> int:
    """How many calls of the model a preset of ``SPEEDUPS`` computes; in a part of a run, as many as the whole would.

    Args:
        preset: its name.
        calls: how many there are in all.
        steps: their schedule, where it may be a part.
    """
    if steps is None or not (steps.before or steps.after):
        return min(max(round(calls / SPEEDUPS[preset]), _LEAST_OF[preset]), calls)
    whole = steps.whole
    reasons = plan(whole.times, whole.falls, computes_of(preset, len(whole)))[len(steps.before) :][: len(steps)]
    here = sum(reason is not None for reason in reasons) / len(steps)
    return min(max(round(calls * here), _LEAST_OF_PART), calls)


def curvature(time: float) -> float:
    """How much predictions bend in ``variable`` at a flow time, in units of where they bend most.

    Measured alike, to a quarter, on two models at 20 to 50 steps, with and without guidance: see benchmarks/README.md.
    """
    return 1 / (1 + (_BENT / (1.01 - time)) ** 2)


def drift(time: float) -> float:
    """How far predictions are at a flow time from where they are held, but for a constant: ``curvature`` twice
    integrated over ``1 / (1.01 - t)``, with the slope that is left where noise is without end.
    """
    v = _BENT / (1.01 - time)
    return (2 * v * math.atan(1 / v) + math.log1p(v**2)) / _BENT**2


def amplification(time: float) -> float:
    """How much an error of the state at a flow time weighs in the end: early ones decide where things are. Fitted."""
    return 0.15 + time**6


def plan(
    times: Sequence[float],
    influences: Sequence[float],
    computes: int,
    begun: Sequence[int] = (),
    share: float = 1.0,
    handed_on: float | None = None,
    longest: int = MAXIMUM_GAP,
) -> tuple[str | None, ...]:
    """Why each call of the model computes, ``None`` where it is skipped.

    By dynamic programming over pairs of successive computes, minimises the sum over the stretches between computes of

        (A(t_c) sum_j influence_j K(t_j) |u_j - u_b| |u_j - u_a|)^2

    where j are the skipped calls between computes b and c, a is the compute before b, u the forecast's ``variable``, K
    its ``curvature`` and A the ``amplification``: what the skips have made of the state when c is computed in it. From
    the first compute to the second there is no line: what is held errs by the difference of ``drift``, at most by
    ``MAXIMUM_HELD``.

    Args:
        times: flow times of the sampler's calls in their order. Where they turn back (restarts) nothing known is of use
            any more, and each part is planned as a run of its own.
        influences: what an error of each call's prediction makes of the state.
        computes: how many calls compute in all; at least ``LEAST`` of each part do.
        begun: calls that have computed, where a plan is changed in the middle: all up to the last of them stays.
        share: which part of a whole run this is, 0 to 1.
        handed_on: flow time at which others go on with the run: the first call of theirs is one more that computes, and
            none of these has to be the last that does.
        longest: most calls from one compute to the next.
    """
    total = len(times)
    of_part = total >= FEWEST_OF_PART and total >= 2 * FEWEST_CALLS * share
    if total < FEWEST_CALLS and not of_part:
        return ("too few steps",) * total
    reasons: list[str | None] = []
    for part in parts(times):
        count = round(computes * len(part) / total)
        done = [call - part.start for call in begun if call in part]
        end = handed_on if part.stop == total else None
        reasons += _plan_part(
            [times[call] for call in part], [influences[call] for call in part], count, done, longest, end
        )
    return tuple(reasons)


def parts(times: Sequence[float]) -> list[range]:
    """Stretches of calls that go one way in time. Samplers that look ahead turn back by a call or two; that is none."""
    down = times[-1] <= times[0]
    starts = [0]
    for call in range(1, len(times)):
        before = times[max(starts[-1], call - 3) : call]
        if (times[call] > max(before)) if down else (times[call] < min(before)):
            starts.append(call)
    return [range(start, end) for start, end in zip(starts, [*starts[1:], len(times)], strict=True)]


def _plan_part(
    times: Sequence[float],
    influences: Sequence[float],
    computes: int,
    begun: Sequence[int],
    longest: int,
    handed_on: float | None,
) -> list[str | None]:
    total = len(times)
    if handed_on is not None:
        times, influences, computes = (*times, handed_on), (*influences, 0.0), computes + 1
    held = _held_errors(times, influences, longest)
    errors = _stretch_errors(times, influences, longest, LAST if handed_on is None else HANDED_ON)
    chosen = _place(held, errors, max(computes, LEAST, len(begun) + 1), begun or (0,))
    reasons: list[str | None] = ["plan" if call in chosen else None for call in range(total)]
    reasons[0] = "first"
    if total > 1 and handed_on is None:
        reasons[-1] = "last"
    return reasons


def _place(held: Tensor, errors: Tensor, computes: int, begun: Sequence[int]) -> set[int]:
    """The computed calls, the last one and those begun among them; errors as the functions below return them."""
    total, gaps, _ = errors.shape
    if computes >= total or total <= LEAST:
        return set(range(total))
    # best[b, g]: least error up to compute b whose predecessor is b - g (index g - 1), after k computes.
    best = torch.full((total, gaps), torch.inf, dtype=torch.float64)
    if len(begun) > 1:
        best[begun[-1], begun[-1] - begun[-2] - 1] = 0.0
    else:
        for gap in range(1, min(gaps, total - 1) + 1):
            best[gap, gap - 1] = held[gap - 1]
    came_from = []
    for _ in range(computes - max(len(begun), 2)):  # the second one is among those that ``best`` begins with
        value, gap_before = (best[:, :, None] + errors).min(dim=1)
        best = torch.full_like(best, torch.inf)
        back = torch.zeros(total, gaps, dtype=torch.long)
        for gap in range(1, gaps + 1):
            best[gap:, gap - 1] = value[:-gap, gap - 1]
            back[gap:, gap - 1] = gap_before[:-gap, gap - 1]
        came_from.append(back)
    call, gap_index = total - 1, int(best[total - 1].argmin())
    if not torch.isfinite(best[call, gap_index]):
        return _place(held, errors, computes + 1, begun)  # so few computes that some gap would exceed the limit
    chosen = {*begun, call}
    for back in reversed(came_from):
        call, gap_index = call - gap_index - 1, int(back[call, gap_index])
        chosen.add(call)
    return chosen


def _held_errors(times: Sequence[float], influences: Sequence[float], longest: int) -> Tensor:
    """Error of computing the first call, then the one h behind it, all between held: float64 ``[gaps h]``."""
    reach = min(longest, len(times) - 1)
    start = drift(times[0])
    strayed = [influences[call] * abs(drift(times[call]) - start) for call in range(reach)]
    summed = torch.tensor(strayed, dtype=torch.float64).cumsum(0)
    grown = torch.tensor([amplification(time) for time in times[1 : reach + 1]], dtype=torch.float64)
    errors = grown * summed
    return torch.where(errors > MAXIMUM_HELD, torch.inf, errors**2)


def _stretch_errors(times: Sequence[float], influences: Sequence[float], longest: int, last: float) -> Tensor:
    """Error of computing b - g, then b, then b + h: float64 ``[calls b, gaps g, gaps h]`` (index gap - 1).

    That of the ``last`` stretch weighs so many times more.
    """
    total, gaps = len(times), min(longest, len(times))
    u = torch.tensor([variable(time) for time in times], dtype=torch.float64)
    bend = torch.tensor([curvature(time) for time in times], dtype=torch.float64)
    weight = bend * torch.tensor(influences, dtype=torch.float64)
    grown = torch.tensor([amplification(time) for time in times], dtype=torch.float64)
    grown[-1] *= last
    errors = torch.full((total, gaps, gaps), torch.inf, dtype=torch.float64)
    for b in range(1, total):
        reach = min(gaps, total - 1 - b)
        if reach < 1:
            continue
        between = slice(b + 1, b + reach)
        after = slice(b + 1, b + reach + 1)
        shape = weight[between] * (u[between] - u[b]).abs()
        for gap in range(1, min(gaps, b) + 1):
            summed = torch.cat((u.new_zeros(1), (shape * (u[between] - u[b - gap]).abs()).cumsum(0)))
            errors[b, gap - 1, :reach] = (grown[after] * summed) ** 2
    return errors
