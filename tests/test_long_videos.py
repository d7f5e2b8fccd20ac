"""Videos longer than a model was made for: in parts, in context windows, autoregressively. What grows with them?

Bytes are of the predictions that the cache keeps; ``docs/several-gpus.md`` has them as a table.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import family, load
from tiny_models import sample as sample_family
from tiny_wan import bind, counting, latents, memory, only_run, planned, runs, sample

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("without_gradients")]
# Two conditions and what guidance makes of them, at the last three computes.
KEPT = 3 * (2 + 1)


def test_parts_in_a_loop_hold_the_same_whether_twenty_or_two_hundred(wan):
    """As a loop in a workflow: each part starts from the one before it."""
    patched, log = bind(wan)
    part, held = None, []
    for number in range(200):
        part = sample(
            patched, latent=part, seed=number, steps=6, frames=3, size=4, denoise=1.0 if part is None else 0.8
        )
        if number % 20 == 19:
            held.append(memory())
    assert held == [held[0]] * 10
    assert {run.cache_bytes for run in runs(log)} == {latents(KEPT, frames=3, size=4)}
    assert part.isfinite().all()


def test_a_part_made_in_a_loop_is_the_part_made_alone(wan):
    """Nothing of the parts before goes into it but the latent that it starts from."""
    patched, _ = bind(wan)
    first = sample(patched, seed=1)
    for seed in (2, 3):
        sample(patched, seed=seed)
    again = sample(patched, latent=first, seed=4, denoise=0.8)
    assert torch.equal(again, sample(bind(wan)[0], latent=first, seed=4, denoise=0.8))


def test_context_windows_keep_a_prediction_for_each_window(wan):
    """So it grows with the video, as its latent does; what the model sees at a time does not."""
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    def windowed(frames):
        model = ContextWindowsManualNode.execute(
            wan, 3, 1, "standard_static", 1, False, "pyramid", 2, False, causal_window_fix=False
        ).args[0]
        patched, log = bind(model)
        with counting() as ran:
            sample(patched, frames=frames, steps=20)
        assert len(set(ran.conditions)) == 1
        return only_run(log), ran.calls

    for frames, windows in ((5, 2), (11, 5), (23, 11)):
        run, calls = windowed(frames)
        assert run.conditions == 2 * windows
        assert run.cache_bytes == latents(2 * 2 * windows, frames=3) + latents(2 + 1, frames=frames)
        assert calls == windows * planned(20)


def test_an_autoregressive_video_keeps_as_much_for_many_blocks_as_for_few(pack):
    from adacache.nodes.ar_cache import ARCache

    causal, row = load("WAN21_CausalAR_T2V"), family("WAN21_CausalAR_T2V")
    kept = []
    for frames in (8, 24):
        bounded, of_window = ARCache.execute(causal, 4, 0).args
        patched, log = bind(bounded)
        sample_family(patched, replace(row, latents=((1, 16, frames, 8, 6),), frames_per_block=2), 10)
        kept.append((only_run(log).cache_bytes, only_run(of_window).cache_bytes))
        assert only_run(log).count("skipped") > 0
    assert kept[0] == kept[1]
