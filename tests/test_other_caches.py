"""A second cache on the model: ComfyUI's own two, and what those of other packs leave on a model.

The stand-ins are a few lines each, written from the marks seen in the repository that is named above them. They skip
nothing. ``installed_as`` gives a node's function, and all that it defines, the module that ComfyUI would give it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import FunctionType
from typing import Any

import pytest
import tiny_models
import torch
from tiny_wan import bind, only_run, runs, sample, text, with_hooks

pytestmark = pytest.mark.usefixtures("without_gradients")
ROADS = ("balanced", "paper-fast")


def installed_as(module: str) -> Callable[[Any], Any]:
    """A function as a custom node's, in a folder whose own name must not count."""

    def again(function: Any) -> Any:
        there = {**function.__globals__, "__name__": f"/srv/cache/ComfyUI/custom_nodes/{module}"}
        return FunctionType(function.__code__, there, function.__name__)

    return again


def options_of(model: Any) -> Any:
    """The clone's ``transformer_options``."""
    return model.model_options["transformer_options"]


class TeaCache:
    """welltop-cn/ComfyUI-TeaCache, nodes.py"""

    @staticmethod
    @installed_as("ComfyUI-TeaCache.nodes")
    def apply_teacache(model):
        patched, context = model.clone(), nullcontext()
        options_of(patched).update(rel_l1_thresh=0.4, coefficients=[1.0], model_type="wan2.1", cache_device="cpu")

        def unet_wrapper_function(model_function, kwargs):
            with context:
                return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])

        patched.set_model_unet_function_wrapper(unet_wrapper_function)
        return patched


class WanVideoTeaCacheKJ:
    """kijai/ComfyUI-KJNodes before its end there, nodes/model_optimization_nodes.py"""

    @staticmethod
    @installed_as("comfyui-kjnodes.nodes.model_optimization_nodes")
    def patch_teacache(model):
        patched = model.clone()
        options_of(patched).update(rel_l1_thresh=0.275, teacache_device="cpu", coefficients=[])

        def outer_wrapper(start_percent):
            def unet_wrapper_function(model_function, kwargs):
                return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])

            return unet_wrapper_function

        patched.set_model_unet_function_wrapper(outer_wrapper(0.1))
        return patched


class MagCache:
    """Zehong-Ma/ComfyUI-MagCache, nodes.py"""

    @staticmethod
    @installed_as("ComfyUI-MagCache.nodes")
    def apply_magcache(model):
        patched = model.clone()
        options_of(patched).update(magcache_thresh=0.06, retention_ratio=0.2, magcache_K=2, start_step=0, end_step=-1)

        def unet_wrapper_function(model_function, kwargs):
            return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])

        patched.set_model_unet_function_wrapper(unet_wrapper_function)
        return patched


def cache_dit(key: str) -> Callable[[Any], Any]:
    """Jasonzzt/ComfyUI-CacheDiT, nodes.py, nodes_wan.py and nodes_ltx2.py"""

    def node(model):
        from comfy.patcher_extension import WrappersMP

        patched = model.clone()
        options_of(patched)[key] = object()
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, lambda executor, *a, **k: executor(*a, **k))
        return patched

    return node


class ApplyFBCacheOnModel:
    """chengzeyi/Comfy-WaveSpeed, fbcache_nodes.py"""

    @staticmethod
    @installed_as("Comfy-WaveSpeed.fbcache_nodes")
    def patch(model):
        def model_unet_function_wrapper(model_function, kwargs):
            return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])

        patched = model.clone()
        patched.set_model_unet_function_wrapper(model_unet_function_wrapper)
        return patched


class MagCacheAccelerator:
    """wildminder/ComfyUI-MagCache, nodes.py"""

    @staticmethod
    @installed_as("ComfyUI-MagCache.nodes")
    def apply_magcache(model):
        def unet_wrapper_function(model_function, kwargs):
            return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])

        patched = model.clone()
        options_of(patched)["magcache_options"] = {"magcache_thresh": 0.1, "K": 2}
        patched.set_model_unet_function_wrapper(unet_wrapper_function)
        return patched


class SpectrumSDXL:
    """ruwwww/ComfyUI-Spectrum-sdxl, spectrum_node.py"""

    @staticmethod
    @installed_as("ComfyUI-Spectrum-sdxl.spectrum_node")
    def patch(model):
        state = {"forecaster": None, "cnt": 0}

        def spectrum_unet_wrapper(model_function, kwargs):
            state["cnt"] += 1
            return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])

        patched = model.clone()
        patched.set_model_unet_function_wrapper(spectrum_unet_wrapper)
        return patched


@installed_as("ComfyUI-Spectrum.spectrum_patches")
def spectrum_of_predictions(model):
    """judian17/ComfyUI-Spectrum, spectrum_node.py and spectrum_patches.py"""
    from comfy.patcher_extension import WrappersMP

    def wrapper(executor, x, timestep, model_options=None, seed=None):
        return executor(x, timestep, model_options, seed)

    def handler(args, extra):
        return extra["original_block"](args)

    patched = model.clone()
    patched.set_model_patch_replace(handler, "dit", "double_block", 0)
    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "spectrum", wrapper)
    return patched


class TaylorSeer:
    """philipy1219/ComfyUI-TaylorSeer, nodes.py"""

    @staticmethod
    @installed_as("ComfyUI-TaylorSeer.nodes")
    def apply_taylorseer(model):
        def unet_wrapper_function(model_function, kwargs):
            return model_function(kwargs["input"], kwargs["timestep"], **kwargs["c"])

        patched = model.clone()
        patched.set_model_unet_function_wrapper(unet_wrapper_function)
        return patched


@installed_as("comfyui-meancache-z.patch.model_patch")
def mean_cache(model):
    """facok/comfyui-meancache-z, patch/model_patch.py"""

    def meancache_wrapper_function(model_function, args):
        return model_function(args["input"], args["timestep"], **args["c"])

    patched = model.clone()
    patched.model_options["meancache"] = {"config": {"rel_l1_thresh": 0.3}}
    patched.set_model_unet_function_wrapper(meancache_wrapper_function)
    return patched


@installed_as("comfyui-cache-dit.cache_engine")
def replaced_forward(model):
    """deniaud/comfyui-cache-dit, cache_engine.py; the model's clones share what it replaces"""
    network = model.model.diffusion_model
    original = network.forward

    def cached_forward(*args, **kwargs):
        return original(*args, **kwargs)

    network.forward = cached_forward
    return model


@installed_as("ComfyUI-Spectrum-WAN-Proper.comfyui_spectrum_wan.wan")
def replaced_apply_model(model):
    """xmarre/ComfyUI-Spectrum-WAN-Proper, comfyui_spectrum_wan/wan.py; the model's clones share what it replaces"""
    original = model.model.apply_model

    def wrapped_apply_model(*args, **kwargs):
        return original(*args, **kwargs)

    model.model.apply_model = wrapped_apply_model
    return model


CERTAIN = [
    (TeaCache.apply_teacache, "TeaCache"),
    (WanVideoTeaCacheKJ.patch_teacache, "TeaCache"),
    (MagCache.apply_magcache, "MagCache"),
    *((cache_dit(key), "CacheDiT") for key in ("cache_dit_turbo", "wan_cache", "ltx2_cache")),
]
LIKELY = [
    (ApplyFBCacheOnModel.patch, "ApplyFBCacheOnModel (model_function_wrapper from Comfy-WaveSpeed.fbcache_nodes)"),
    (MagCacheAccelerator.apply_magcache, "MagCacheAccelerator (model_function_wrapper from ComfyUI-MagCache.nodes)"),
    (SpectrumSDXL.patch, "SpectrumSDXL (model_function_wrapper from ComfyUI-Spectrum-sdxl.spectrum_node)"),
    (spectrum_of_predictions, "spectrum (predict_noise wrapper from ComfyUI-Spectrum.spectrum_patches)"),
    (TaylorSeer.apply_taylorseer, "TaylorSeer (model_function_wrapper from ComfyUI-TaylorSeer.nodes)"),
    (mean_cache, "mean_cache (model_function_wrapper from comfyui-meancache-z.patch.model_patch)"),
    (replaced_forward, "cached_forward (diffusion_model.forward from comfyui-cache-dit.cache_engine)"),
    (
        replaced_apply_model,
        "ComfyUI-Spectrum-WAN-Proper (apply_model from ComfyUI-Spectrum-WAN-Proper.comfyui_spectrum_wan.wan)",
    ),
]


@pytest.fixture
def model(wan: Any) -> Iterator[Any]:
    """The tiny Wan, which gets its own methods back."""
    yield wan
    for module, name in ((wan.model.diffusion_model, "forward"), (wan.model, "apply_model")):
        vars(module).pop(name, None)


def likely(model: Any) -> list[str]:
    from adacache.nodes.other_caches import other_caches

    names: list[str] = other_caches(model, model.model_options)
    return names


def easy_cache(model: Any) -> Any:
    from comfy_extras.nodes_easycache import EasyCacheNode

    return EasyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]


def lazy_cache(model: Any) -> Any:
    from comfy_extras.nodes_easycache import LazyCacheNode

    return LazyCacheNode.execute(model, 0.2, 0.15, 0.95, False).args[0]


class TestCertain:
    @pytest.mark.parametrize(("node", "name"), [(easy_cache, "EasyCache"), (lazy_cache, "LazyCache"), *CERTAIN])
    @pytest.mark.parametrize("preset", ROADS)
    def test_before_and_behind(self, model, preset, node, name):
        from adacache.adacache_core import ConfigurationError

        refusal = f"already has a cache, {name}.*Remove or bypass the {name} node"
        with pytest.raises(ConfigurationError, match=refusal):
            bind(node(model), preset)
        patched, log = bind(model, preset)
        with pytest.raises(ConfigurationError, match=refusal):
            sample(node(patched), steps=2, callback=lambda *_: pytest.fail("a step was sampled"))
        assert not runs(log)

    @pytest.mark.parametrize("first", ROADS)
    @pytest.mark.parametrize("second", ROADS)
    def test_two_of_ours(self, model, first, second):
        from adacache.adacache_core import ConfigurationError

        with pytest.raises(ConfigurationError, match=r"already has a cache, AdaCache.*bypass the first AdaCache node"):
            bind(bind(model, first)[0], second)


class TestLikely:
    @pytest.mark.parametrize(("node", "name"), LIKELY)
    def test_is_named(self, model, node, name):
        assert likely(bind(model)[0]) == []
        assert likely(node(bind(model)[0])) == [name]
        assert likely(bind(node(model))[0]) == [name]

    @pytest.mark.parametrize("preset", ROADS)
    def test_warns_in_log_and_statistics(self, model, preset, caplog):
        patched, log = bind(model, preset)
        sample(mean_cache(replaced_forward(patched)), steps=2)
        names = [dict(LIKELY)[node] for node in (mean_cache, replaced_forward)]
        assert only_run(log).settings["other_caches"] == names
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert [name for name in names if any(name in warning for warning in warnings)] == names

    def test_a_wrapper_that_calls_it(self, model):
        """As packs do where there is a wrapper already, sorryhyun/ComfyUI-Spectrum-KSampler among them."""

        @installed_as("a_pack.nodes")
        def node(patched):
            old_wrapper = patched.model_options["model_function_wrapper"]
            patched.set_model_unet_function_wrapper(lambda model_function, args: old_wrapper(model_function, args))
            return patched

        cached = node(node(TaylorSeer.apply_taylorseer(model)))
        assert likely(bind(cached)[0]) == [dict(LIKELY)[TaylorSeer.apply_taylorseer]]

    def test_a_replaced_method_that_bears_the_name_of_the_original(self, model):

        @installed_as("a_pack.nodes")
        def node(model):
            network = model.model.diffusion_model
            original = network.forward

            @functools.wraps(original)
            def cached_forward(*args, **kwargs):
                return original(*args, **kwargs)

            network.forward = cached_forward
            return model

        assert likely(bind(node(model))[0]) == ["cached_forward (diffusion_model.forward from a_pack.nodes)"]

    def test_a_wrapper_known_by_its_key_or_by_what_it_holds(self, model):
        @installed_as("a_pack.nodes")
        def node(patched, key, held):
            from comfy.patcher_extension import WrappersMP

            patched.add_wrapper_with_key(
                WrappersMP.DIFFUSION_MODEL, key, lambda executor, *args: (held, executor(*args))
            )
            return patched

        @installed_as("a_pack.states")
        def state():
            class StepCache: ...

            return StepCache()

        place = "(diffusion_model wrapper from a_pack"
        assert likely(node(bind(model)[0], "first_block_cache", None)) == [f"first_block_cache {place}.nodes)"]
        assert likely(node(bind(model)[0], "speed", state())) == [f"StepCache {place}.states)"]
        assert likely(node(bind(model)[0], "speed", None)) == []


def compiled(model):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    patched = model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(patched, "eager")
    return patched


def compiled_as_a_patch(model):
    """As TeaCache's and WaveSpeed's own compile nodes do."""
    patched = model.clone()
    patched.add_object_patch("diffusion_model", torch.compile(model.model.diffusion_model, backend="eager"))
    return patched


def windows(model):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    node = ContextWindowsManualNode.execute
    return node(model, 3, 1, "standard_static", 1, False, "pyramid", 2, False, causal_window_fix=True).args[0]


def skipped_layers(model):
    from comfy_extras.nodes_slg import SkipLayerGuidanceDiTSimple

    return SkipLayerGuidanceDiTSimple.execute(model, 0.0, 1.0, "1", "").args[0]


def perturbed_attention(model):
    from comfy_extras.nodes_pag import PerturbedAttentionGuidance

    return PerturbedAttentionGuidance.execute(model, 3.0).args[0]


@installed_as("a_pack.nodes")
def other_things_kept(model):
    from comfy.patcher_extension import WrappersMP

    def kv_cache_wrapper(executor, *args, **kwargs):
        return executor(*args, **kwargs)

    @functools.lru_cache
    def scale(step):
        return step

    def scaled(executor, *args, **kwargs):
        return scale(1) * executor(*args, **kwargs)

    patched = model.clone()
    patched.cached_patcher_init = (scaled, ())
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "attention_cache", kv_cache_wrapper)
    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "scaled", scaled)
    options_of(patched)["kv_caches"] = []
    return patched


NODES = (compiled, compiled_as_a_patch, windows, skipped_layers, perturbed_attention, other_things_kept)


class TestNothingOfTheKind:
    @pytest.mark.parametrize("node", NODES)
    def test_is_not_named(self, model, node):
        assert likely(bind(node(model))[0]) == []
        assert likely(node(bind(model)[0])) == []

    @pytest.mark.parametrize("preset", ROADS)
    def test_lora_hooks_windows_and_guidance_while_sampled(self, model, preset, caplog):
        patched, log = bind(skipped_layers(windows(model)), preset)
        sample(patched, steps=2, positive=with_hooks(text(7)))
        assert only_run(log).settings["other_caches"] == []
        assert "second cache" not in caplog.text

    def test_key_value_caches(self, pack):
        """The model's own, and the bound of the AR Cache node."""
        from adacache.adacache_core import Window
        from adacache.nodes.ar_cache import bind as bound

        causal = tiny_models.load("WAN21_CausalAR_T2V")
        assert likely(bind(causal)[0]) == []
        assert likely(bound(bind(causal)[0], Window(4))[0]) == []
        assert likely(bind(bound(causal, Window(4))[0])[0]) == []
