"""Graphs of the Wan family."""

from __future__ import annotations

from demo.gallery.graph import INPUT, MODELS, SAMPLING, Graph
from demo.gallery.parts import (
    SEED,
    Build,
    Recipe,
    Size,
    cached,
    decode,
    diffusion_model,
    image,
    inspect,
    load,
    output_column,
    prompts,
    sample_and_save,
    save,
    wan_text,
)

FOX = (
    "A red fox trots through fresh snow at the edge of a pine forest, its breath visible in the cold air. Low winter "
    "sun from the left, long blue shadows, snow thrown up by its paws. The camera moves alongside at eye level."
)
HARBOUR = (
    "A small fishing boat leaves a harbour at dawn. Gulls circle above the mast, ropes sway, the wake spreads over "
    "calm pink water. The camera rises slowly until the whole bay is visible."
)
RUNNER = (
    "A woman in a yellow jacket runs down a wet city street at night and jumps over a puddle. Neon signs are mirrored "
    "in the asphalt, cars pass behind her, the handheld camera follows closely."
)
ALIVE = "The picture comes alive: a gentle wind moves hair, leaves and cloth, and the camera slowly moves closer."


def wan_t2v(model: str, shift: float, cfg: float, size: Size, **settings: str) -> Build:
    """Text to video with Wan 2.1; with AdaCache's settings, where they are not the default ones."""

    def build(graph: Graph, recipe: Recipe) -> None:
        graph.column("1. Model, with AdaCache", 360, MODELS)
        cache = cached(graph, diffusion_model(graph, model, shift), **settings)
        clip, vae = wan_text(graph)
        graph.column("2. Prompt and size", 420, INPUT)
        conditions = prompts(graph, clip, FOX)
        latent = graph.add("EmptyHunyuanLatentVideo", title="Size and length", **size.widgets)["LATENT"]
        sample_and_save(graph, recipe, cache, conditions, latent, vae, cfg, size)

    return build


def wan_i2v(graph: Graph, recipe: Recipe) -> None:
    size = Size(832, 480, 49, 16)
    graph.column("1. Model, with AdaCache", 360, MODELS)
    cache = cached(graph, diffusion_model(graph, "wan2.1_i2v_480p_14B_fp8_scaled.safetensors", 3.0))
    clip, vae = wan_text(graph)
    vision = load(graph, "CLIPVisionLoader", clip_name="clip_vision_h.safetensors")["CLIP_VISION"]
    graph.column("2. Image, prompt and size", 420, INPUT)
    start = image(graph)["IMAGE"]
    seen = graph.add("CLIPVisionEncode", clip_vision=vision, image=start, crop="none")["CLIP_VISION_OUTPUT"]
    conditions = prompts(graph, clip, ALIVE)
    first = graph.add(
        "WanImageToVideo",
        title="Size and length",
        positive=conditions[0],
        negative=conditions[1],
        vae=vae,
        clip_vision_output=seen,
        start_image=start,
        **size.widgets,
    )
    conditions = first["positive"], first["negative"]
    sample_and_save(graph, recipe, cache, conditions, first["latent"], vae, 5.0, size)


def wan_two_experts(kind: str, cfg: float, shift: float) -> Build:
    def build(graph: Graph, recipe: Recipe) -> None:
        size = Size(832, 480, 81, 16)
        graph.column("1. Two experts, each with AdaCache", 400, MODELS)
        caches = []
        for noise in ("high", "low"):
            name = f"wan2.2_{kind}_{noise}_noise_14B_fp8_scaled.safetensors"
            model = diffusion_model(graph, name, shift, title=f"Expert for {noise} noise")
            caches.append(cached(graph, model, title=f"AdaCache: {noise} noise"))
        graph.column("2. Prompt and size", 420, INPUT)
        clip, vae = wan_text(graph)
        if kind == "t2v":
            conditions = prompts(graph, clip, HARBOUR)
            latent = graph.add("EmptyHunyuanLatentVideo", title="Size and length", **size.widgets)["LATENT"]
        else:
            start = image(graph)["IMAGE"]
            positive, negative = prompts(graph, clip, ALIVE)
            first = graph.add(
                "WanImageToVideo",
                title="Size and length",
                positive=positive,
                negative=negative,
                vae=vae,
                start_image=start,
                **size.widgets,
            )
            conditions, latent = (first["positive"], first["negative"]), first["latent"]
        graph.column("3. Sample: high noise, then low", 400, SAMPLING)
        for number, (cache, steps) in enumerate(zip(caches, recipe.steps, strict=True)):
            latent = graph.add(
                "KSamplerAdvanced",
                title="Low noise: the last steps" if number else "High noise: the first steps",
                model=cache["MODEL"],
                positive=conditions[0],
                negative=conditions[1],
                latent_image=latent,
                add_noise="disable" if number else "enable",
                noise_seed=SEED,
                steps=sum(recipe.steps),
                cfg=cfg,
                sampler_name="euler",
                scheduler="simple",
                start_at_step=number * steps,
                end_at_step=10000 if number else steps,
                return_with_leftover_noise="disable" if number else "enable",
            )["LATENT"]
        graph.column("4. Inspect", 480, SAMPLING)
        latent = inspect(graph, latent, *caches)
        output_column(graph, 5)
        save(graph, recipe.slug, decode(graph, latent, vae), size.fps)

    return build


def wan_5b(graph: Graph, recipe: Recipe) -> None:
    size = Size(1280, 704, 121, 24)
    graph.column("1. Model, with AdaCache", 360, MODELS)
    cache = cached(graph, diffusion_model(graph, "wan2.2_ti2v_5B_fp16.safetensors", 8.0))
    clip = load(graph, "CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")["CLIP"]
    vae = load(graph, "VAELoader", vae_name="wan2.2_vae.safetensors")["VAE"]
    graph.column("2. Prompt, image and size", 420, INPUT)
    conditions = prompts(graph, clip, HARBOUR)
    start = image(graph, "Start image: Ctrl+B to use it", bypassed=True)["IMAGE"]
    latent = graph.add("Wan22ImageToVideoLatent", title="Size and length", vae=vae, start_image=start, **size.widgets)[
        "LATENT"
    ]
    sample_and_save(graph, recipe, cache, conditions, latent, vae, 5.0, size, tiled=True)
