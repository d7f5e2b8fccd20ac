"""The sentences of a report that answer "why": what was asked for, what was skipped, how well, or why not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..adacache_core import RunStatistics, WindowStatistics
from .settings import AUTO, OFF
from .words import Entry, human_bytes, human_seconds, roughly

# Runs that are told about, and drawn, one by one: the last ones.
MOST_PANELS = 3


def explain(runs: list[RunStatistics], connected: bool) -> list[Entry]:
    """All there is to say of runs in their order, or why there are none."""
    if not runs:
        return [{"key": "not_sampled" if connected else "not_connected"}]
    entries = [] if len(runs) <= MOST_PANELS else [_together(runs)]
    for number, run in enumerate(runs, start=1):
        title: list[Entry] = [{"key": "run", "run": number, "runs": len(runs)}] if len(runs) > 1 else []
        faults = list(_faults(run))
        if number > len(runs) - MOST_PANELS:
            entries += [*title, *_times(run), *_what(run), *faults]
        elif faults:
            entries += [*title, *faults]
    return entries


def _together(runs: list[RunStatistics]) -> Entry:
    """The parts of a video that a loop samples one by one, say; what each of them did would fill the screen."""
    return {
        "key": "together",
        "runs": len(runs),
        "computed": sum(run.count("computed") for run in runs),
        "steps": sum(len(run.steps) for run in runs),
        "seconds": human_seconds(sum(run.seconds for run in runs)),
        "shown": MOST_PANELS,
    }


def _times(run: RunStatistics) -> Iterable[Entry]:
    if not run.steps:
        return
    computed, preset = run.count("computed"), preset_of(run.settings)
    yield {"key": "computed_of", "preset": preset, "computed": computed, "steps": len(run.steps)}
    rest = [record.seconds for record in run.steps if record.kind != "computed"]
    if not rest or run.speedup is None:
        yield {"key": "took", "seconds": human_seconds(run.seconds)}
        return
    usual, first = run.usual_seconds, run.steps[0].seconds
    yield {"key": "faster", "seconds": human_seconds(run.seconds), "uncached": roughly(uncached_seconds(run))}
    key, name = ("each_partial", "partial") if run.count("partial") else ("each", "skipped")
    yield {"key": key, "computed": human_seconds(usual), name: human_seconds(sum(rest) / len(rest))}
    if first > 1.5 * usual:
        yield {"key": "first", "first": human_seconds(first)}


def _what(run: RunStatistics) -> Iterable[Entry]:
    """Where most was skipped and how well, or why nothing was."""
    planned = run.settings["codebook"] is None
    if planned:
        yield from _asked_for(run)
    skipped = [record.step for record in run.steps if record.kind == "skipped"]
    if partial := run.count("partial"):
        yield {"key": "refreshed", "count": partial}
    elif skipped:
        yield _phase(skipped, run.total_steps)
        if planned:
            yield from _how_exact(run.settings)
            yield from _moved(run)
    elif run.finished:
        yield from why_nothing(run)


def _asked_for(run: RunStatistics) -> Iterable[Entry]:
    """What the plan made of the sampler's calls and of a speedup that cannot be had."""
    settings, steps = run.settings, run.total_steps // run.finer
    evaluations, computes = settings.get("evaluations"), settings.get("computes")
    if evaluations not in (None, settings.get("sampler_steps")):
        yield {"key": "asks", "evaluations": evaluations, "steps": settings["sampler_steps"]}
    if run.finer > 1:
        yield {"key": "finer", "steps": run.total_steps, "own": steps}
    elif settings.get("finer", OFF) not in (OFF, AUTO):
        yield {"key": "not_finer", "because": settings["uncorrected_because"]}
    asked, few = _computes_asked(run), any(record.reason == "too few steps" for record in run.steps)
    if computes is not None and asked < computes and not few:
        preset, speedup = preset_of(settings), f"{steps / computes:.3g}"
        yield {"key": "least", "preset": preset, "asked": asked, "steps": steps, "computes": computes,
               "speedup": speedup}  # fmt: skip


def _computes_asked(run: RunStatistics) -> int:
    return max(1, round(run.total_steps / run.finer / run.settings["speedup"]))


def _how_exact(settings: dict[str, Any]) -> Iterable[Entry]:
    """What asking the sampler found, and what it means for skipped steps."""
    if "evaluations" not in settings:
        return
    because = settings["uncorrected_because"]
    if settings["evaluations"] is None:
        yield {"key": "not_asked", "because": because}
    elif settings["corrected"]:
        yield {"key": "corrected"}
    else:
        yield {"key": "noisy"} if settings["adds_noise"] else {"key": "uncorrected", "because": because}
    if settings.get("fewer_is_better"):
        yield {"key": "fewer", "computes": settings["computes"]}


def _moved(run: RunStatistics) -> Iterable[Entry]:
    """What MoReg made of a plan; what it makes of a codebook is in the distances."""
    if run.motion_share is not None:
        yield {"key": "moved", "percent": round(100 * run.motion_share)}
    elif run.settings["moreg"] is not None and run.finished:
        yield {"key": "not_moved"}


def _phase(skipped: list[int], total_steps: int) -> Entry:
    parts = [[step for step in range(total_steps) if step * 3 // total_steps == part] for part in range(3)]
    counts = [sum(step in part for step in skipped) for part in parts]
    most = counts.index(max(counts))
    first, last = parts[most][0] + 1, parts[most][-1] + 1
    key = ("phase_early", "phase_middle", "phase_late")[most]
    return {"key": key, "count": counts[most], "size": len(parts[most]), "first": first, "last": last}


def why_nothing(run: RunStatistics) -> Iterable[Entry]:
    """Why a run computed every step."""
    codebook = run.settings["codebook"]
    if not run.steps:
        return
    if run.steps[0].reason == "too few steps":
        yield {"key": "too_few", "steps": run.total_steps}
    elif codebook is not None:
        yield _why_no_distance(run, max((bound for bound, rate in codebook if rate > 1), default=None))
    elif _computes_asked(run) >= run.total_steps // run.finer:
        yield {"key": "every", "preset": preset_of(run.settings)}


def _why_no_distance(run: RunStatistics, threshold: float | None) -> Entry:
    """Why no distance led to a skip; the threshold is the largest one with a rate over 1."""
    free = [record.paper for record in run.steps if record.paper is not None and record.reason == "schedule"]
    plain = min((seen.distance for seen in free if seen.distance is not None), default=None)
    lowest = min((seen.regularized_distance for seen in free if seen.regularized_distance is not None), default=plain)
    if threshold is None:
        return {"key": "rates"}
    if plain is None or lowest is None or lowest < threshold:
        return {"key": "forced"}
    if plain < threshold:
        return {"key": "motion", "plain": f"{plain:.3f}", "lowest": f"{lowest:.3f}"}
    return {"key": "far", "threshold": f"{threshold:g}", "lowest": f"{lowest:.3f}"}


def _faults(run: RunStatistics) -> Iterable[Entry]:
    """What did not go as planned."""
    reasons = [record.reason for record in run.steps]
    if count := reasons.count("not finite") + reasons.count("residual is not finite"):
        yield {"key": "not_finite", "count": count, "steps": len(reasons)}
    if count := reasons.count("new condition") + reasons.count("nothing cached for a condition"):
        yield {"key": "new_condition", "count": count}
    if count := reasons.count("out of reach"):
        yield {"key": "out_of_reach", "count": count}
    yield from ({"key": "second_cache", "name": name} for name in run.settings.get("other_caches", ()))
    if not run.finished:
        yield stopped(run)


def key_value(cache: WindowStatistics) -> Entry:
    """How far an autoregressive model's cache of finished frames was bounded."""
    window, video = cache.window.frames, cache.video_frames
    if video <= window:
        return {"key": "key_value_whole", "video": video, "window": window, "bytes": human_bytes(cache.cache_bytes)}
    full = next((number for number, block in enumerate(cache.blocks, start=1) if block.frames == window), "-")
    return {
        "key": "key_value",
        "frames": window,
        "video": video,
        "bytes": human_bytes(cache.cache_bytes),
        "full": full,
        "blocks": len(cache.blocks),
        "unbounded": human_bytes(video * cache.frame_bytes),
    }


def stopped(run: RunStatistics) -> Entry:
    """That it did not come to its end."""
    return {"key": "stopped", "done": len(run.steps), "steps": run.total_steps}


def preset_of(settings: dict[str, Any]) -> str:
    """A preset's name, with the speedup that it aims at where that is the user's choice."""
    return f"target {settings['speedup']:g}x" if settings["preset"] == "target" else settings["preset"]


def uncached_seconds(run: RunStatistics) -> float:
    """What the run would have taken with every step computed, as far as is known."""
    first = run.steps[0].seconds
    return (run.speedup or 1.0) * (run.seconds - first) + first
