"""Graphs that make one video twice, from the same seed, and show both."""

from __future__ import annotations

from demo.gallery.graph import INPUT, MODELS, OUTPUT, SAMPLING, Graph, Output
from demo.gallery.parts import (
    SEED,
    Recipe,
    Size,
    cached,
    decode,
    diffusion_model,
    inspect,
    prompts,
    sampler,
    save,
    wan_text,
)
from demo.gallery.wan import FOX, RUNNER

SIZE = Size(832, 480, 49, 16)


def with_and_without(graph: Graph, recipe: Recipe) -> None:
    """Every step computed on the left, AdaCache on the right."""
    graph.column("1. Model, with and without AdaCache", 360, MODELS)
    model = diffusion_model(graph, "wan2.1_t2v_1.3B_fp16.safetensors", 8.0)
    cache = cached(graph, model)
    conditions, vae, latent, seed = _inputs(graph, FOX)
    [steps] = recipe.steps
    graph.column("3. Every step computed", 360, SAMPLING)
    plain = sampler(graph, model, conditions, latent, steps=steps, cfg=6.0, seed=seed, title="Without AdaCache")
    left = decode(graph, plain, vae)
    graph.column("4. The same with AdaCache", 480, SAMPLING)
    sampled = sampler(graph, cache["MODEL"], conditions, latent, steps=steps, cfg=6.0, seed=seed, title="With AdaCache")
    right = decode(graph, inspect(graph, sampled, cache), vae)
    _side_by_side(graph, recipe, left, right, "Left: every step. Right: AdaCache.")


def with_and_without_moreg(graph: Graph, recipe: Recipe) -> None:
    """AdaCache on the left, AdaCache with MoReg on the right."""
    graph.column("1. Model, with and without MoReg", 400, MODELS)
    model = diffusion_model(graph, "wan2.1_t2v_1.3B_fp16.safetensors", 8.0)
    plain = cached(graph, model, title="AdaCache")
    moreg = graph.add("AdaCacheMoReg")["MoReg"]
    moving = cached(graph, model, title="AdaCache with MoReg", moreg=moreg)
    conditions, vae, latent, seed = _inputs(graph, RUNNER)
    frames = []
    for number, cache in enumerate((plain, moving)):
        name = str(cache.json["title"])
        graph.column(f"{3 + number}. {name}", 480, SAMPLING)
        steps = recipe.steps[number]
        sampled = sampler(graph, cache["MODEL"], conditions, latent, steps=steps, cfg=6.0, seed=seed, title=name)
        frames.append(decode(graph, inspect(graph, sampled, cache), vae))
    _side_by_side(graph, recipe, *frames, "Left: AdaCache. Right: with MoReg.")


def _inputs(graph: Graph, prompt: str) -> tuple[tuple[Output, Output], Output, Output, Output]:
    """Conditions, VAE, latent and seed, which both videos share."""
    clip, vae = wan_text(graph)
    graph.column("2. Prompt, size and seed", 420, INPUT)
    conditions = prompts(graph, clip, prompt)
    latent = graph.add("EmptyHunyuanLatentVideo", title="Size and length", **SIZE.widgets)["LATENT"]
    return conditions, vae, latent, graph.add("PrimitiveInt", title="Seed of both", value=SEED)["INT"]


def _side_by_side(graph: Graph, recipe: Recipe, left: Output, right: Output, title: str) -> None:
    graph.column("5. Both videos, side by side", 560, OUTPUT)
    both = graph.add("ImageStitch", title=title, image1=left, image2=right, direction="right", spacing_width=8)
    save(graph, recipe.name, both["IMAGE"], SIZE.fps)
