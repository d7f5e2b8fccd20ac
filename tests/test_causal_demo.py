"""The causal demo on a real server: a video ten times as long as its window."""

from __future__ import annotations

import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from demo.comfyui import REPOSITORY, ComfyServer
from demo.workflow import to_prompt

WINDOW, VIDEO, BLOCK = 6, 60, 2
# Layers, keys and values, tokens of a latent frame, channels, bytes of a float.
FRAME_BYTES = 10 * 2 * (8 * 8) * 128 * 4


@pytest.fixture(scope="module")
def run(server: ComfyServer, demo_weights: Path):
    graph = json.loads((REPOSITORY / "workflows" / "AdaCache Demo Long Video.json").read_text(encoding="utf-8"))
    prompt = to_prompt(graph, server.object_info())
    ran = server.run(prompt)
    by_type = {item["class_type"]: node for node, item in prompt.items()}
    [video] = ran.outputs[by_type["SaveVideo"]]["images"]
    with av.open(io.BytesIO(server.download(video))) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return frames, ran.outputs[by_type["AdaCacheInspector"]]["adacache"][0]


def test_the_cache_stays_at_the_window(run):
    _, report = run
    [cache] = report["key_value_caches"]
    assert cache["video_frames"] == VIDEO
    assert cache["cache_bytes"] == WINDOW * FRAME_BYTES
    assert cache["unbounded_bytes"] == VIDEO * FRAME_BYTES
    assert [block["start"] for block in cache["blocks"]] == list(range(0, VIDEO, BLOCK))
    assert [block["frames"] for block in cache["blocks"]] == [2, 4] + [WINDOW] * 28
    assert report["summary"] == (
        "Key/value cache: 6 of 60 latent frames at most, 3.8 MiB, full from block 3 of 30 on. "
        "Without a window it would take 37.5 MiB."
    )


def test_the_video_shows_what_was_asked_for_all_along(run):
    """A yellow circle that moves: about 1,450 of 16,384 pixels, fewer where it leaves at a side."""
    frames, _ = run
    assert frames.shape == (4 * VIDEO - 3, 128, 128, 3)
    bright = frames.max(-1) > 128
    red, green, blue = np.moveaxis(frames, -1, 0)
    yellow = bright & (red > 180) & (green > 150) & (blue < 110)
    after_the_first_window = range(4 * WINDOW, len(frames) - 4 * WINDOW, 4 * WINDOW)
    for first in after_the_first_window:
        chunk = slice(first, first + 4 * WINDOW)
        assert 0.015 < bright[chunk].mean() < 0.15
        assert yellow[chunk].sum() > 0.6 * bright[chunk].sum()
    columns = np.array([picture.any(0).nonzero()[0].mean() for picture in bright[4 * WINDOW :] if picture.any()])
    assert np.ptp(columns) > 20, "it does not move"


@pytest.mark.parametrize("prefix", [1, 2, 3])
def test_training_shows_a_block_what_the_sampler_shows_it(comfy_imports, demo_weights, monkeypatch, prefix):
    """One pass over a clip, clean and noisy, against ComfyUI's cache, block after block, behind a window."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "demo"))
    from train_causal import BLOCK, FRAMES, build_causal_dit, velocity

    generator = torch.Generator().manual_seed(0)
    clean, noisy = torch.randn(2, 1, 16, FRAMES, 4, 4, generator=generator).unbind()
    context, sigma = torch.randn(1, 6, 4096, generator=generator), torch.rand(1, FRAMES, generator=generator)
    dit, tokens = build_causal_dit(demo_weights / "adacache_demo_causal_dit.safetensors"), 2 * 2
    caches = dit.init_kv_caches(1, FRAMES * tokens, torch.device("cpu"), torch.float32)
    texts = dit.init_crossattn_caches(1, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        trained = velocity(dit, clean, noisy, sigma, context, prefix)
        for start in range(0, FRAMES, BLOCK):
            frames = slice(start, start + BLOCK)
            for layer in caches:  # as many blocks as the prefix says stay
                excess = max(0, layer["end"] - prefix * BLOCK * tokens)
                for name in ("k", "v"):
                    layer[name] = layer[name].roll(-excess, dims=1)
                layer["end"] -= excess
            sampled = dit.forward_block(noisy[:, :, frames], 1000 * sigma[:, frames], context, start, caches, texts)
            torch.testing.assert_close(trained[:, :, frames], sampled, rtol=1e-4, atol=1e-4)
            for layer in caches:
                layer["end"] -= BLOCK * tokens
            dit.forward_block(clean[:, :, frames], torch.zeros(1, BLOCK), context, start, caches, texts)
