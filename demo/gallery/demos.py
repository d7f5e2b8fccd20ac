"""Graphs of the demo's small models, which draw moving shapes."""

from __future__ import annotations

from demo.gallery.graph import INPUT, MODELS, SAMPLING, Graph, Node, Output
from demo.gallery.parts import Recipe, Size, cached, decode, inspect, output_column, sampler, save

SIZE = Size(128, 128, 33, 16)
SEED = 0


def wan(graph: Graph, recipe: Recipe) -> None:
    """The small Wan 2.1 with AdaCache."""
    graph.column("1. Model, with AdaCache, and scene", 360, MODELS)
    cache = cached(graph, _model(graph, "adacache_demo_dit.safetensors"))
    _sample(graph, recipe, cache)


def token_refresh(graph: Graph, recipe: Recipe) -> None:
    """Token Refresh in place of skips."""
    graph.column("1. Model, with AdaCache and Token Refresh", 400, MODELS)
    model = _model(graph, "adacache_demo_dit.safetensors")
    refresh = graph.add("AdaCacheTokenRefresh")["Token Refresh"]
    cache = cached(graph, model, token_refresh=refresh)
    graph.column("2. Scene", 340, INPUT)
    _sample(graph, recipe, cache, number=3)


def _sample(graph: Graph, recipe: Recipe, cache: Node, number: int = 2) -> None:
    conditions = _scene(graph, "changing")
    latent = graph.add("EmptyHunyuanLatentVideo", title="Size and length", **SIZE.widgets)["LATENT"]
    graph.column(f"{number}. Sample and inspect", 480, SAMPLING)
    [steps] = recipe.steps
    sampled = sampler(graph, cache["MODEL"], conditions, latent, steps=steps, cfg=3.0, seed=SEED)
    _show(graph, recipe, inspect(graph, sampled, cache), number + 1)


def causal(graph: Graph, recipe: Recipe) -> None:
    """The small autoregressive Wan with AR Cache, a video ten times as long as the window."""
    graph.column("1. Model, with AR Cache", 360, MODELS)
    model = _model(graph, "adacache_demo_causal_dit.safetensors")
    cache = graph.add("AdaCacheARCache", model=model, window=6)
    graph.column("2. Scene", 340, INPUT)
    positive, negative = _scene(graph, "fast")
    latent = graph.add("EmptyARVideoLatent", title="Size and length", **{**SIZE.widgets, "length": 237})["LATENT"]
    graph.column("3. Sample", 360, SAMPLING)
    method = graph.add("SamplerARVideo", num_frame_per_block=2)["SAMPLER"]
    [steps] = recipe.steps
    sigmas = graph.add("BasicScheduler", model=model, scheduler="simple", steps=steps)["SIGMAS"]
    sampled = graph.add(
        "SamplerCustom",
        model=cache["MODEL"],
        positive=positive,
        negative=negative,
        sampler=method,
        sigmas=sigmas,
        latent_image=latent,
        noise_seed=SEED,
        cfg=1.0,
    )
    graph.column("4. Inspect", 480, SAMPLING)
    _show(graph, recipe, inspect(graph, sampled["output"], cache), 5)


def _model(graph: Graph, name: str) -> Output:
    model = graph.add("UNETLoader", unet_name=name)["MODEL"]
    return graph.add("ModelSamplingSD3", model=model, shift=3.0)["MODEL"]


def _scene(graph: Graph, motion: str) -> tuple[Output, Output]:
    scene = {"motion": motion, "color": "yellow", "shape": "circle"}
    return (
        graph.add("AdaCacheDemoScene", title="What to draw", **scene)["CONDITIONING"],
        graph.add("AdaCacheDemoEmpty", title="Negative prompt: none")["CONDITIONING"],
    )


def _show(graph: Graph, recipe: Recipe, latent: Output, number: int) -> None:
    output_column(graph, number)
    vae = graph.add("VAELoader", vae_name="adacache_demo_vae.safetensors")["VAE"]
    save(graph, recipe.slug, decode(graph, latent, vae), SIZE.fps)
