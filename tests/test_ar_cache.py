"""The bounded key/value cache: hand-made layers, then ComfyUI's autoregressive Wan and sampler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import family, load, noise, sample
from torch import Tensor

AUTOREGRESSIVE = "WAN21_CausalAR_T2V"
STEPS = 4
LAYERS, WIDTH, FRAME = 3, 128, 4 * 3  # of the tiny model: layers, channels, tokens of a latent frame of 8 x 6
FRAME_BYTES = LAYERS * 2 * FRAME * WIDTH * 4


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


# --- Hand-made layers ------------------------------------------------------------------------------------------------


def numbered(layer: dict[str, Any], name: str) -> list[float]:
    """What a layer holds, as the numbers that the tests below write into it."""
    return layer[name][0, : layer["end"], 0, 0].tolist()


def append(layers: list[dict[str, Any]], start: int, frames: int) -> None:
    """As the model does: two tokens per frame, keys numbered by frame and token, values 100 more."""
    for layer in layers:
        for frame in range(start, start + frames):
            for token in (0, 1):
                layer["k"][:, layer["end"]] = frame + token / 10
                layer["v"][:, layer["end"]] = 100 + frame + token / 10
                layer["end"] += 1


@pytest.mark.parametrize(
    ("anchors", "held"),
    [
        # Blocks of two frames in a window of five: the third block pushes one frame out, later ones two.
        (0, [[0, 1], [0, 1, 2, 3], [1, 2, 3, 4, 5], [3, 4, 5, 6, 7]]),
        (1, [[0, 1], [0, 1, 2, 3], [0, 2, 3, 4, 5], [0, 4, 5, 6, 7]]),
    ],
)
def test_first_in_first_out_by_hand(pack, anchors, held):
    from adacache.adacache_core import Window, WindowStatistics
    from adacache.nodes.ar_cache import WindowedCache

    layers = [{name: torch.zeros(1, 10, 1, 1) for name in ("k", "v")} | {"end": 0} for _ in range(2)]
    statistics = WindowStatistics(Window(5, anchors), video_frames=8)
    caches = [WindowedCache(layer, 2, statistics) for layer in layers]
    places = [layer[name].data_ptr() for layer in layers for name in ("k", "v")]
    for number, frames in enumerate(held):
        for _ in range(3):  # two denoising steps, each taken back, and the clean pass
            for layer in caches:
                layer.make_room(2 * number, 2)
            append(caches, 2 * number, 2)
            for layer in caches:
                assert numbered(layer, "k") == pytest.approx([f + t / 10 for f in frames for t in (0, 1)])
                assert numbered(layer, "v") == pytest.approx([100 + f + t / 10 for f in frames for t in (0, 1)])
                layer["end"] -= 4
        for layer in caches:
            layer["end"] += 4
    assert [layer[name].data_ptr() for layer in caches for name in ("k", "v")] == places, "buffers were made anew"
    assert statistics.cache_bytes == 2 * 2 * 10 * 4  # layers, keys and values, tokens, bytes of a float
    assert statistics.frame_bytes == 2 * 2 * 2 * 4
    assert [(block.start, block.frames) for block in statistics.blocks] == [(0, 2), (2, 4), (4, 5), (6, 5)]
    assert [block.nbytes for block in statistics.blocks] == [64, 128, 160, 160]


@pytest.mark.parametrize(
    ("window", "block", "given", "video", "message"),
    [
        ((2, 0), 3, 0, 9, r"a block of 3 latent frames does not fit into a window of 2\. Raise the window to 3 or"),
        ((4, 2), 3, 0, 9, r"block of 3 latent frames does not fit into a window of 4 beside 2 anchors.* to 5 or"),
        ((4, 0), 2, 5, 9, r"starts from 5 latent frames, more than the window of 4 holds\. Raise the window to 7"),
        ((2, 0), 3, 0, 2, None),  # fits as a whole
        ((3, 0), 3, 0, 9, None),
        ((5, 2), 3, 5, 9, None),
    ],
)
def test_what_does_not_fit_is_refused(pack, window, block, given, video, message):
    from adacache.adacache_core import ConfigurationError, Window

    if message is None:
        Window(*window).check(block, given, video)
    else:
        with pytest.raises(ConfigurationError, match=message):
            Window(*window).check(block, given, video)


@pytest.mark.parametrize("window", [(0, 0), (3, 3), (3, -1)])
def test_a_window_has_room_beside_its_anchors(pack, window):
    from adacache.adacache_core import ConfigurationError, Window

    with pytest.raises(ConfigurationError, match="anchors must be below the window"):
        Window(*window)


# --- ComfyUI's model and sampler -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def causal(pack: Any) -> Any:
    """The tiny autoregressive Wan."""
    return load(AUTOREGRESSIVE)


def bounded(model: Any, frames: int, anchors: int = 0) -> tuple[Any, Any]:
    """Patched by the node itself, and its log."""
    from adacache.nodes.ar_cache import ARCache

    return ARCache.execute(model, frames, anchors).args


def make(model: Any, frames: int, block: int = 2, given: int = 0, steps: int = STEPS) -> Tensor:
    """Sample by the sampler that SamplerARVideo gives, ``[1, 16, frames, 8, 6]``."""
    first_frame = (lambda: noise(1, 16, given, 8, 6)) if given else None
    row = replace(
        family(AUTOREGRESSIVE),
        latents=((1, 16, frames, 8, 6),),
        frames_per_block=block,
        first_frame=first_frame,
    )
    return sample(model, row, steps)


def last(log: Any) -> Any:
    return log.of_prompt(None)[-1].statistics


@pytest.mark.parametrize("given", [0, 1, 3])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_while_shorter_than_the_window_no_bit_changes(causal, block, given):
    for window in (7, 8, 100):
        patched, log = bounded(causal, window)
        assert torch.equal(make(patched, 7, block, given), make(causal, 7, block, given))
        assert last(log).cache_bytes == 7 * FRAME_BYTES


def test_the_part_of_a_longer_video_that_fits_is_bit_identical(causal):
    patched, _ = bounded(causal, 6)
    plain, windowed = make(causal, 12), make(patched, 12)
    assert torch.equal(windowed[:, :, :6], plain[:, :, :6])
    assert not torch.equal(windowed[:, :, 6:8], plain[:, :, 6:8]), "this test must be able to notice the bound"


class Reference:
    """The same attention without any cache of bounded length: per layer every finished frame's key and value are kept
    by their numbers, and each call gathers those of the window anew."""

    def __init__(self, window: int, anchors: int) -> None:
        self.window, self.anchors, self.start = window, anchors, 0
        self.kept: dict[Any, dict[int, tuple[Tensor, Tensor]]] = {}

    def forward(self, module: Any, x: Tensor, freqs: Tensor, kv_cache: Any, transformer_options: Any) -> Tensor:
        from comfy.ldm.flux.math import apply_rope1
        from comfy.ldm.modules.attention import optimized_attention

        shape = (1, x.shape[1], module.num_heads, module.head_dim)
        query = apply_rope1(module.norm_q(module.q(x)).view(shape), freqs)
        key = apply_rope1(module.norm_k(module.k(x)).view(shape), freqs)
        kept, count = self.kept.setdefault(module, {}), x.shape[1] // FRAME
        for index, pair in enumerate(zip(key.split(FRAME, 1), module.v(x).view(shape).split(FRAME, 1), strict=True)):
            kept[self.start + index] = pair
        end = self.start + count
        seen = range(end)
        if end > self.window:
            seen = [*range(self.anchors), *range(end - self.window + self.anchors, end)]
        keys, values = (torch.cat([kept[frame][which] for frame in seen], 1) for which in (0, 1))
        kv_cache["end"] += x.shape[1]  # the sampler counts on it
        heads = module.num_heads
        return module.o(optimized_attention(query.flatten(2), keys.flatten(2), values.flatten(2), heads=heads))

    def __call__(self, model: Any) -> Any:
        from comfy.patcher_extension import WrappersMP

        def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self.start = args[5]["ar_state"]["start_frame"]
            modules = [block.self_attn for block in model.model.diffusion_model.blocks]
            for module in modules:
                module.forward = lambda x, freqs, kv_cache=None, transformer_options=None, module=module: self.forward(
                    module, x, freqs, kv_cache, transformer_options
                )
            try:
                return executor(*args, **kwargs)
            finally:
                for module in modules:
                    del module.forward

        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "reference", apply_model)
        return patched


@pytest.mark.parametrize(
    ("window", "anchors", "block", "given"),
    [(4, 0, 2, 0), (5, 0, 2, 0), (6, 2, 2, 0), (3, 0, 3, 0), (4, 1, 1, 0), (4, 0, 2, 1), (4, 1, 2, 3), (2, 0, 1, 2)],
)
def test_beyond_the_window_it_equals_attention_over_the_windows_frames(causal, window, anchors, block, given):
    frames = 13
    patched, log = bounded(causal, window, anchors)
    windowed = make(patched, frames, block, given)
    reference = make(Reference(window, anchors)(causal), frames, block, given)
    torch.testing.assert_close(windowed, reference, rtol=1e-5, atol=1e-5)
    other = make(Reference(window + 1, anchors)(causal), frames, block, given)
    assert (windowed - other).abs().max() > 1e-3, "this test must be able to tell windows apart"
    assert last(log).cache_bytes == window * FRAME_BYTES


def test_the_cache_is_as_large_for_a_long_video_as_for_a_short_one(causal):
    patched, log = bounded(causal, 4)
    for frames in (4, 8, 40):
        make(patched, frames, steps=1)
        statistics = last(log)
        assert statistics.cache_bytes == 4 * FRAME_BYTES
        assert statistics.to_dict()["unbounded_bytes"] == frames * FRAME_BYTES
        assert [block.start for block in statistics.blocks] == list(range(0, frames, 2))
        assert [block.frames for block in statistics.blocks] == [2] + [4] * (frames // 2 - 1)
        assert max(block.nbytes for block in statistics.blocks) == 4 * FRAME_BYTES


def test_keys_and_values_of_finished_frames_are_written_once_and_shared_by_every_step(causal):
    """Between the clean pass that writes a frame and the block that pushes it out, no bit of it changes."""
    from comfy.patcher_extension import WrappersMP

    seen: dict[int, list[Tensor]] = {}
    held: list[list[int]] = []

    def look(executor: Any, *args: Any, **kwargs: Any) -> Any:
        result = executor(*args, **kwargs)
        [cache, *_] = args[5]["ar_state"]["kv_caches"]
        start = args[5]["ar_state"]["start_frame"]
        keys = cache["k"][:, : cache["end"]].clone().split(FRAME, 1)
        held.append(list(range(start + 2 - len(keys), start + 2)))
        for frame, key in zip(held[-1], keys, strict=True):
            if frame < start or args[5]["sigmas"][0] == 0:
                seen.setdefault(frame, []).append(key)
        return result

    patched, _ = bounded(causal, 4)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "look", look)
    make(patched, 8)
    assert held == [[0, 1]] * (STEPS + 1) + [[f, f + 1, f + 2, f + 3] for f in (0, 2, 4) for _ in range(STEPS + 1)]
    for frame in range(6):
        assert len(seen[frame]) == 1 + STEPS + 1, "the clean pass, then every call of the next block"
        assert all(torch.equal(key, seen[frame][0]) for key in seen[frame])


def test_the_node_leaves_the_model_as_it_was(causal):
    before = make(causal, 8)
    patched, _ = bounded(causal, 4)
    assert not torch.equal(make(patched, 8), before)
    assert torch.equal(make(causal, 8), before)
    with pytest.raises(ValueError, match="does not fit"):
        make(bounded(causal, 1)[0], 8)
    assert "init_kv_caches" not in vars(causal.model.diffusion_model)


def test_it_is_gone_from_the_model_after_an_error(causal, monkeypatch):
    def fail(*args: Any, **kwargs: Any) -> Any:
        assert "init_kv_caches" in vars(causal.model.diffusion_model)
        raise RuntimeError("boom")

    monkeypatch.setattr(type(causal.model.diffusion_model), "forward_block", fail)
    with pytest.raises(RuntimeError, match="boom"):
        make(bounded(causal, 4)[0], 8)
    assert "init_kv_caches" not in vars(causal.model.diffusion_model)


@pytest.mark.parametrize("ar_first", [True, False], ids=["AR Cache first", "AdaCache first"])
@pytest.mark.parametrize("given", [0, 1])
def test_with_adacache(causal, ar_first, given):
    from adacache.adacache_core.paper.codebook import Codebook
    from adacache.nodes.binding import bind
    from adacache.nodes.settings import Settings

    def both(*entries: tuple[float, int]) -> tuple[Any, Any, Any]:
        settings = Settings("custom", Codebook(entries))
        if ar_first:
            patched, log = bounded(causal, 4)
            patched, steps = bind(patched, settings)
        else:
            patched, steps = bind(causal, settings)
            patched, log = bounded(patched, 4)
        return patched, log, steps

    alone = make(bounded(causal, 4)[0], 9, given=given, steps=10)
    every, _, _ = both((1.0, 1))
    assert torch.equal(make(every, 9, given=given, steps=10), alone)
    skipping, log, steps = both((1e9, 3))
    samples = make(skipping, 9, given=given, steps=10)
    blocks = -(-(9 - given) // 2)
    computed = [record.step for record in last(steps).steps if record.kind == "computed"]
    assert computed == [0, 1, 4, 7, 8, 9] * blocks
    assert len(last(steps).steps) == 10 * blocks
    assert last(log).cache_bytes == 4 * FRAME_BYTES
    assert len(last(log).blocks) == blocks + (given > 0)
    assert samples.isfinite().all()
    assert 0 < (samples - alone).abs().max() < 3 * alone.std()


@pytest.mark.parametrize("given", [0, 1])
def test_with_a_planned_preset(causal, given, monkeypatch):
    """A skipped call writes nothing into the key/value cache: its end is moved by what a computed one adds."""
    from adacache.nodes.binding import bind
    from adacache.nodes.settings import Settings

    network, ends = type(causal.model.diffusion_model), []
    original = network.forward_block

    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        caches = kwargs["kv_caches"]
        ends.append((kwargs["start_frame"], caches[0]["end"]))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(network, "forward_block", noting)
    alone = make(bounded(causal, 4)[0], 9, given=given, steps=10)
    uncached = sorted(set(ends))
    every, _ = bind(bounded(causal, 4)[0], Settings("target", target_speedup=1.0))
    assert torch.equal(make(every, 9, given=given, steps=10), alone)
    ends.clear()
    patched, steps = bind(bounded(causal, 4)[0], Settings("balanced"))
    samples = make(patched, 9, given=given, steps=10)
    run = last(steps)
    # Every block's first call and the one that writes its frames compute; all see the cache as the uncached run has it.
    assert sorted(set(ends)) == uncached
    assert run.count("skipped") >= 4 * (run.total_steps // 11)
    assert samples.isfinite().all() and not torch.equal(samples, alone)


# --- Bad input -------------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_autoregressive_is_refused(pack):
    from adacache.adacache_core import UnsupportedModelError

    with pytest.raises(UnsupportedModelError, match=r"comfy.ldm.wan.model.WanModel, which is not autoregressive"):
        bounded(load("WAN21_T2V"), 4)


def test_a_second_window_is_refused(causal):
    with pytest.raises(ValueError, match="has a window already"):
        bounded(bounded(causal, 4)[0], 4)


@pytest.mark.parametrize(
    ("window", "block", "given", "message"),
    [
        (2, 3, 0, "a block of 3 latent frames does not fit into a window of 2"),
        (3, 2, 4, "starts from 4 latent frames, more than the window of 3 holds. Raise the window to 6"),
    ],
)
def test_a_window_that_is_too_small_is_refused_before_anything_is_sampled(causal, window, block, given, message):
    patched, log = bounded(causal, window)
    with pytest.raises(ValueError, match=message):
        make(patched, 9, block, given)
    with pytest.raises(IndexError):
        last(log)


def test_a_sampler_without_a_cache_is_refused(causal):
    patched, _ = bounded(causal, 4)
    with pytest.raises(ValueError, match=r"the sampler is euler, which makes all frames at once.*Sampler AR Video"):
        sample(patched, replace(family(AUTOREGRESSIVE), frames_per_block=None), STEPS)


def test_two_nodes_with_equal_settings_keep_logs_of_their_own(pack):
    """What ComfyUI executes once for nodes that are alike, it executes twice for these."""
    import asyncio

    from adacache.nodes.ar_cache import ARCache
    from comfy_execution.caching import CacheKeySetInputSignature
    from comfy_execution.graph import DynamicPrompt

    import nodes as comfy_nodes

    class Unchanged:
        async def get(self, node_id: str) -> bool:
            return False

    inputs = {"window": 4, "anchors": 0}
    prompt = {name: {"class_type": "AdaCacheARCache", "inputs": inputs} for name in ("one", "other")}
    comfy_nodes.NODE_CLASS_MAPPINGS["AdaCacheARCache"] = ARCache
    try:
        ARCache.GET_SCHEMA()
        keys = CacheKeySetInputSignature(DynamicPrompt(prompt), prompt.keys(), Unchanged())
        asyncio.run(keys.add_keys(prompt.keys()))
    finally:
        del comfy_nodes.NODE_CLASS_MAPPINGS["AdaCacheARCache"]
    assert keys.get_data_key("one") != keys.get_data_key("other")


# --- Inspector -------------------------------------------------------------------------------------------------------


def test_the_inspector_shows_frames_and_bytes_over_the_run(causal):
    import json

    from adacache.nodes.inspector import AdaCacheInspector

    patched, log = bounded(causal, 4)
    latent = {"samples": make(patched, 8)}
    output = AdaCacheInspector.execute(latent, None, log)
    report = json.loads(output.args[1])
    [cache] = report["key_value_caches"]
    assert [(block["start"], block["frames"]) for block in cache["blocks"]] == [(0, 2), (2, 4), (4, 4), (6, 4)]
    assert [block["nbytes"] for block in cache["blocks"]] == [2 * FRAME_BYTES] + [4 * FRAME_BYTES] * 3
    # 36,864 bytes a frame.
    assert report["summary"] == (
        "Key/value cache: 4 of 8 latent frames at most, 144 KiB, full from block 2 of 4 on. "
        "Without a window it would take 288 KiB."
    )
    make(patched, 3)
    summary = json.loads(AdaCacheInspector.execute(latent, log).args[1])["summary"].splitlines()
    assert summary[-1] == "Key/value cache: all 3 latent frames fit into the window of 4, 108 KiB."
