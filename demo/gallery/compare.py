"""Graphs that make one video several times, from the same noise."""

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
from demo.workflow import MUTED

SIZE = Size(832, 480, 49, 16)
CFG = 6.0
DRAFTS = 8


def with_and_without(graph: Graph, recipe: Recipe) -> None:
    """Every step computed on the left, AdaCache on the right."""
    graph.column("1. Model, with and without AdaCache", 360, MODELS)
    model = diffusion_model(graph, "wan2.1_t2v_1.3B_fp16.safetensors", 8.0)
    cache = cached(graph, model)
    conditions, vae, latent, seed = _inputs(graph, FOX)
    [steps] = recipe.steps
    graph.column("3. Every step computed", 360, SAMPLING)
    plain = sampler(graph, model, conditions, latent, steps=steps, cfg=CFG, seed=seed, title="Without AdaCache")
    graph.column("4. The same with AdaCache", 480, SAMPLING)
    sampled = sampler(graph, cache["MODEL"], conditions, latent, steps=steps, cfg=CFG, seed=seed, title="With AdaCache")
    cheap = inspect(graph, sampled, cache, reference=plain)
    left, right = _side_by_side(graph, recipe, vae, plain, cheap, "Left: every step. Right: AdaCache.")
    graph.column("6. A card to share", 480, OUTPUT)
    card = graph.add("AdaCacheCard", images=right, report=cheap.node["report"], reference_images=left)["card"]
    graph.add("SaveImage", images=card, filename_prefix=f"{recipe.slug}_card", tall=620)


def with_and_without_moreg(graph: Graph, recipe: Recipe) -> None:
    """AdaCache on the left, AdaCache with MoReg on the right, and every step computed to measure both by."""
    graph.column("1. Model, with and without MoReg", 400, MODELS)
    model = diffusion_model(graph, "wan2.1_t2v_1.3B_fp16.safetensors", 8.0)
    caches = {
        "AdaCache": cached(graph, model, title="AdaCache"),
        "AdaCache with MoReg": cached(graph, model, title="AdaCache with MoReg", moreg=True),
    }
    conditions, vae, latent, seed = _inputs(graph, RUNNER)
    [steps] = recipe.steps
    settings = {"steps": steps, "cfg": CFG, "seed": seed}
    graph.column("3. Every step computed", 360, SAMPLING)
    plain = sampler(graph, model, conditions, latent, title="Without AdaCache", **settings)
    latents = []
    for number, (title, cache) in enumerate(caches.items(), 4):
        graph.column(f"{number}. {title}", 480, SAMPLING)
        sampled = sampler(graph, cache["MODEL"], conditions, latent, title=title, **settings)
        latents.append(inspect(graph, sampled, cache, reference=plain))
    _side_by_side(graph, recipe, vae, *latents, "Left: AdaCache. Right: with MoReg.", number=6)


def finer(graph: Graph, recipe: Recipe) -> None:
    """The user's steps, and half as many computed of four times as many, both against four times as many."""
    [steps] = recipe.steps
    graph.column("1. Model, without and with finer steps", 420, MODELS)
    model = diffusion_model(graph, "wan2.1_t2v_1.3B_fp16.safetensors", 8.0)
    # With every step computed AdaCache changes nothing, and the inspector can measure.
    every = {"preset": "target", "preset.target_speedup": 1.0}
    caches = {
        f"{steps} steps": cached(graph, model, title=f"{steps} steps, all computed", **every),
        f"{steps // 2} of {4 * steps}": cached(graph, model, title=f"{steps // 2} of {4 * steps}", finer="4"),
    }
    conditions, vae, latent, seed = _inputs(graph, FOX)
    graph.column(f"3. {4 * steps} steps: what both are measured by", 400, SAMPLING)
    title = f"{4 * steps} steps"
    best = sampler(graph, model, conditions, latent, title=title, steps=4 * steps, cfg=CFG, seed=seed)
    latents = []
    for number, (title, cache) in enumerate(caches.items(), 4):
        graph.column(f"{number}. {title}", 480, SAMPLING)
        made = sampler(graph, cache["MODEL"], conditions, latent, title=title, steps=steps, cfg=CFG, seed=seed)
        latents.append(inspect(graph, made, cache, reference=best))
    graph.column("6. Side by side", 560, OUTPUT)
    frames = [decode(graph, made, vae) for made in (latents[0], best, latents[1])]
    joined = {"direction": "right", "spacing_width": 8}
    pair = graph.add("ImageStitch", title="Left, middle", image1=frames[0], image2=frames[1], **joined)["IMAGE"]
    title = f"{steps} | {4 * steps} | {steps // 2} of {4 * steps} steps"
    three = graph.add("ImageStitch", title=title, image1=pair, image2=frames[2], **joined)["IMAGE"]
    save(graph, recipe.slug, three, SIZE.fps)


def drafts(graph: Graph, recipe: Recipe) -> None:
    """Eight videos with preset fast, one after the other, and one of them again with every step computed."""
    graph.column("1. Model, with AdaCache", 360, MODELS)
    model = diffusion_model(graph, "wan2.1_t2v_1.3B_fp16.safetensors", 8.0)
    cache = cached(graph, model, preset="fast")
    conditions, vae, latent, seed = _inputs(graph, RUNNER, DRAFTS)
    [steps] = recipe.steps
    graph.column("3. The drafts", 360, SAMPLING)
    single = graph.add("RebatchLatents", title="One after the other", latents=latent, batch_size=1)["LATENT"]
    sampled = sampler(graph, cache["MODEL"], conditions, single, steps=steps, cfg=CFG, seed=seed, title="Drafts")
    graph.column("4. Choose one", 480, OUTPUT)
    save(graph, f"{recipe.slug}/draft", decode(graph, sampled, vae), SIZE.fps)
    graph.column("5. The chosen one, every step computed", 420, SAMPLING)
    chosen = graph.add("LatentFromBatch", title="Which draft: 0 is the first", samples=latent, batch_index=0)["LATENT"]
    full = sampler(graph, model, conditions, chosen, steps=steps, cfg=CFG, seed=seed, title="Without AdaCache")
    final = save(graph, f"{recipe.slug}/final", decode(graph, full, vae), SIZE.fps)
    final.json |= {"title": "Chosen video: Ctrl+M to make it", "mode": MUTED}


def _inputs(graph: Graph, prompt: str, batch: int = 1) -> tuple[tuple[Output, Output], Output, Output, Output]:
    """Conditions, VAE, latent and seed, which all videos share."""
    clip, vae = wan_text(graph)
    graph.column("2. Prompt, size and seed", 420, INPUT)
    conditions = prompts(graph, clip, prompt)
    size = {**SIZE.widgets, "batch_size": batch}
    latent = graph.add("EmptyHunyuanLatentVideo", title="Size and length", **size)["LATENT"]
    return conditions, vae, latent, graph.add("PrimitiveInt", title="Seed of all", value=SEED)["INT"]


def _side_by_side(
    graph: Graph, recipe: Recipe, vae: Output, left: Output, right: Output, title: str, number: int = 5
) -> tuple[Output, Output]:
    """Saves both in one video; returns the frames of either."""
    graph.column(f"{number}. Both videos, side by side", 560, OUTPUT)
    images = decode(graph, left, vae), decode(graph, right, vae)
    both = graph.add("ImageStitch", title=title, direction="right", spacing_width=8, image1=images[0], image2=images[1])
    save(graph, recipe.slug, both["IMAGE"], SIZE.fps)
    return images
