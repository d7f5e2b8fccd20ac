"""What is compared: methods with their settings, and ways of sampling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from adacache_core import SPEEDUPS

# What diffusers' TaylorSeer caches: the outputs of attention and of the feed-forward, as its paper does.
SUBLAYERS = (r"blocks\.\d+\.attn[12]", r"blocks\.\d+\.ffn")
# What cache-dit forecasts with in place of holding.
CALIBRATORS: dict[str, dict[str, Any]] = {
    "TaylorSeer": {"calibrator": "taylorseer", "order": 1},
    "FoCa": {"calibrator": "foca"},
    "DMD": {"calibrator": "dmd"},
}
# EasyCache's and LazyCache's reuse_threshold; the nodes' default is 0.2.
THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)


@dataclass(frozen=True)
class Sampling:
    """How the model is sampled; what the peers are compared on is the default."""

    steps: int = 30
    sampler: str = "euler"
    shift: float = 3.0
    cfg: float = 3.0

    def __str__(self) -> str:
        return f"{self.steps} steps, {self.sampler}, shift {self.shift:g}, cfg {self.cfg:g}"


# What most people run, see benchmarks/README.md; there the distance to the converged video is measured as well.
MAIN = (Sampling(20, "res_multistep", 5.0, 1.0), Sampling(20, "euler", 5.0, 1.0))
# And the next two of that list: guidance, on two experts, and 25 steps.
GUIDED, TWENTY_FIVE = Sampling(20, "euler", 5.0, 3.5), Sampling(25, "euler", 5.0, 1.0)
# What finer steps are measured on: the second of them and GUIDED, and the ends of the shifts that people set.
FINER = (MAIN[1], GUIDED, replace(MAIN[1], shift=3.0), replace(MAIN[1], shift=8.0))
EXPERTS, STAGES = "adacache_experts", "adacache_stages"  # names of such pairs of models


# So many evaluations are looked at where closeness to the converged video counts, with the samplers and schedulers that
# came closest to it at one of these counts on development scenes, of six samplers on four schedulers, and with levels
# that are placed for the model at hand, see levels.py.
EVALUATIONS = (6, 8, 10, 14, 20)
GITS = "gits"
SOLVERS = (("dpmpp_2m", "simple"), ("ipndm", "beta"), ("ipndm", GITS))
# Of all samplers the closest to the converged video at 10 steps, cfg 1, on development scenes.
BEST_FEWER = "dpmpp_2m"


@dataclass(frozen=True)
class Setting:
    """A method with its settings.

    Attributes:
        method: ``adacache``, or a peer.
        label: for people, unique within a method.
        options: for the runner, as pairs, so that a setting is hashable.
    """

    method: str
    label: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """The options by name."""
        return dict(self.options)


def setting(method: str, label: str, **options: Any) -> Setting:
    """A setting with options given by name."""
    return Setting(method, label, tuple(sorted(options.items())))


def planned(computes: int) -> Setting:
    """AdaCache's plan with so many steps computed."""
    return setting("adacache", f"{computes} computes", preset="target", computes=computes)


UNCACHED = setting("uncached", "")


def equal_computes(steps: int) -> tuple[int, ...]:
    """Counts of computed steps at which schedules are compared: a half, two fifths and a third, as 15, 12, 10 of 30."""
    return tuple(round(steps * share) for share in (1 / 2, 2 / 5, 1 / 3))


def schedule_settings(sampling: Sampling) -> Iterator[Setting]:
    """Which steps compute: ours against even distances, and against as many plain steps; for every way of sampling."""
    for count in equal_computes(sampling.steps):
        yield planned(count)
        yield setting("fixed", f"{count} computes", computes=count)
        yield setting("fewer", f"{count} steps", computes=count)


def main_settings(sampling: Sampling) -> Iterator[Setting]:
    """At what people run: what they could do instead, as many plain steps of the best other sampler among it."""
    yield UNCACHED
    for preset in SPEEDUPS:
        yield setting("adacache", preset, preset=preset)
    counts = {round(sampling.steps / speedup) for speedup in SPEEDUPS.values()}
    for count in (round(sampling.steps * share) for share in (3 / 4, 2 / 5, 1 / 4)):
        counts.add(count)
        yield planned(count)
    for count in equal_computes(sampling.steps)[:2]:
        yield setting("adacache", f"{count} computes, MoReg", preset="target", computes=count, moreg=True)
    for count in sorted(counts, reverse=True):
        yield setting("fewer", f"{count} steps", computes=count)
        yield setting("fewer", f"{count} steps, {BEST_FEWER}", computes=count, sampler=BEST_FEWER)
    for method in ("lazycache", "easycache"):
        yield from (setting(method, f"threshold {threshold:g}", threshold=threshold) for threshold in (0.1, 0.2, 0.5))


def finer_settings(sampling: Sampling) -> Iterator[Setting]:
    """So many evaluations, and how close to the converged video they come."""
    yield UNCACHED
    for steps in (30, 50):
        yield setting("uncached", f"{steps} steps", computes=steps)
    for count in EVALUATIONS:
        yield setting("adacache sampler", f"{count} evaluations", evaluations=count)
        if count < sampling.steps:
            yield setting("adacache", f"{count} computes, finer", preset="target", computes=count, finer="4")
        for sampler, scheduler in SOLVERS:
            label = f"{count} steps, {sampler}, {scheduler}"
            yield setting("solver", label, computes=count, sampler=sampler, scheduler=scheduler)


def fourfold(sampling: Sampling) -> Iterator[Setting]:
    """Ours around 4x by the clock, where the fastest settings of the peers are."""
    for count in sorted({math.ceil(sampling.steps / 4), sampling.steps // 4, sampling.steps // 5}, reverse=True):
        yield planned(count)


def headline_settings(sampling: Sampling) -> Iterator[Setting]:
    """At the paper's 4.7x and at 7x: ours, and as many plain steps; the published codebooks with MoReg off and on."""
    for speedup in (4.7, 7.0):
        count = round(sampling.steps / speedup)
        yield planned(count)
        yield setting("fewer", f"{count} steps", computes=count)
    for preset in ("paper-slow", "paper-fast"):
        yield setting("adacache", preset, preset=preset)
        yield setting("adacache", f"{preset}, MoReg", preset=preset, moreg=True)


def token_settings(sampling: Sampling) -> Iterator[Setting]:
    """Partial steps against skips of about the same floating-point operations, which the rows then say exactly."""
    for count in equal_computes(sampling.steps):
        for ratio in (0.1, 0.3):
            # Of a step of the demo model the MLP is 35 %, all else is held.
            partial = 0.35 * ratio
            computes = round((count - partial * sampling.steps) / (1 - partial))
            for tokens in ("open-sora", "random"):
                label = f"{tokens}, ratio {ratio:g}, {computes} computes"
                yield setting("token refresh", label, preset="target", computes=computes, tokens=tokens, ratio=ratio)
        yield planned(count)


def comfyui_settings(sampling: Sampling, short: bool) -> Iterator[Setting]:
    """Rows of the ComfyUI runner; the first ones are what the short form shows."""
    for preset in ("quality", "balanced", "fast", "paper-slow", "paper-fast"):
        yield setting("adacache", preset, preset=preset)
    for threshold in (0.1, 0.2, 0.5) if short else THRESHOLDS:
        yield setting("lazycache", f"threshold {threshold:g}", threshold=threshold)
    for threshold in (0.2,) if short else THRESHOLDS:
        yield setting("easycache", f"threshold {threshold:g}", threshold=threshold)
    yield from itertools.islice(schedule_settings(sampling), 3, 6) if short else schedule_settings(sampling)
    if short:
        return
    yield from fourfold(sampling)
    for count in equal_computes(sampling.steps):
        yield setting("adacache", f"{count} computes, uncorrected", preset="target", computes=count, repays=False)
        yield setting("adacache", f"{count} computes, MoReg", preset="target", computes=count, moreg=True)
    for preset in ("paper-slow", "paper-fast"):
        yield setting("adacache", f"{preset}, MoReg", preset=preset, moreg=True)


def diffusers_settings(sampling: Sampling, short: bool) -> Iterator[Setting]:
    """Rows of the diffusers runner: ours, and its peers from careful to fast."""
    for preset in ("quality", "balanced", "fast"):
        yield setting("adacache", preset, preset=preset)
    if not short:
        yield from schedule_settings(sampling)
        yield from fourfold(sampling)
    for threshold in (0.05, 0.1) if short else (0.03, 0.05, 0.1, 0.2, 0.3):
        yield setting("fbcache", f"threshold {threshold:g}", threshold=threshold)
    for interval, order in ((2, 1),) if short else itertools.product((2, 3, 4, 5), (1, 2)):
        options = {"cache_interval": interval, "max_order": order}
        yield setting("taylorseer", f"interval {interval}, order {order}", cache_identifiers=SUBLAYERS, **options)
        if not short:
            # Its default names attention modules as other models have them: on Wan it would cache nothing.
            yield setting("taylorseer", f"interval {interval}, order {order}, lite", use_lite_mode=True, **options)
    for threshold, skips in ((0.06, 3), (0.24, 4), *(() if short else ((0.03, 2), (0.12, 3), (0.5, 6)))):
        yield setting("magcache", f"threshold {threshold:g}, {skips} skips", threshold=threshold, max_skip_steps=skips)
    for threshold in (0.25,) if short else (0.1, 0.25, 0.5):
        for order in (0, 1):
            options = {"threshold": threshold, "residual_order": order, "max_consecutive_cached": 4}
            yield setting("seacache", f"threshold {threshold:g}, order {order}", **options)
    # FasterCache forecasts one condition of guidance from the other.
    for latest in () if sampling.cfg == 1 else (681,) if short else (681, 901):
        timesteps = {
            f"{part}_timestep_skip_range": (-1, latest) for part in ("spatial_attention", "unconditional_batch")
        }
        yield setting("fastercache", f"up to timestep {latest}", **timesteps)
    for interval in (2,) if short else (2, 3, 5):
        ranges = {"spatial_attention_block_skip_range": interval, "cross_attention_block_skip_range": 2 * interval}
        yield setting("pab", f"every {interval}", **ranges)
    for threshold in (0.1,) if short else (0.05, 0.1, 0.2, 0.3, 0.5):
        yield setting("dbcache", f"threshold {threshold:g}", residual_diff_threshold=threshold)
        for name, calibrator in CALIBRATORS.items():
            label = f"threshold {threshold:g}, {name}"
            yield setting("dbcache", label, residual_diff_threshold=threshold, **calibrator)
    for mask in ("medium",) if short else ("slow", "medium", "fast"):
        yield setting("dbcache", f"mask {mask}", mask=mask)
        for name, calibrator in CALIBRATORS.items():
            yield setting("dbcache", f"mask {mask}, {name}", mask=mask, **calibrator)
