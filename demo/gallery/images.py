"""Graphs of image models."""

from __future__ import annotations

from demo.gallery.graph import INPUT, MODELS, SAMPLING, Graph, Output
from demo.gallery.parts import (
    Build,
    Recipe,
    cached,
    custom_sampler,
    decode,
    diffusion_model,
    inspect,
    load,
    output_column,
    prompts,
    sampler,
)

HERON = (
    "A grey heron stands in the shallow water of a misty lake at sunrise, its reflection nearly still. Reeds in the "
    "foreground, dew on their leaves, warm light from behind, fine detail in the feathers."
)


def guided(model: str, shift: float, text: tuple[str, str], vae_name: str, side: int, method: str) -> Build:
    """Qwen-Image and Z-Image: guidance by a negative prompt, ``text`` is the encoder's file and its kind."""

    def build(graph: Graph, recipe: Recipe) -> None:
        graph.column("1. Model, with AdaCache", 360, MODELS)
        plain = diffusion_model(graph, model)
        cache = cached(graph, graph.add("ModelSamplingAuraFlow", model=plain, shift=shift)["MODEL"])
        clip = load(graph, "CLIPLoader", clip_name=text[0], type=text[1])["CLIP"]
        vae = load(graph, "VAELoader", vae_name=vae_name)["VAE"]
        graph.column("2. Prompt and size", 420, INPUT)
        conditions = prompts(graph, clip, HERON, "")
        latent = graph.add("EmptySD3LatentImage", title="Size", width=side, height=side)["LATENT"]
        graph.column("3. Sample and inspect", 480, SAMPLING)
        [steps] = recipe.steps
        sampled = sampler(graph, cache["MODEL"], conditions, latent, steps=steps, cfg=4.0, method=method)
        _save_image(graph, recipe, inspect(graph, sampled, cache), vae, 4)

    return build


def flux_2(graph: Graph, recipe: Recipe) -> None:
    """FLUX.2 Dev has guidance built in: a step asks the model once."""
    size = {"width": 1248, "height": 832}
    graph.column("1. Model, with AdaCache", 360, MODELS)
    cache = cached(graph, diffusion_model(graph, "flux2_dev_fp8mixed.safetensors"))
    clip = load(graph, "CLIPLoader", clip_name="mistral_3_small_flux2_fp8.safetensors", type="flux2")["CLIP"]
    vae = load(graph, "VAELoader", vae_name="flux2-vae.safetensors")["VAE"]
    graph.column("2. Prompt and size", 420, INPUT)
    prompt = graph.add("CLIPTextEncode", title="Prompt", clip=clip, text=HERON, tall=190)["CONDITIONING"]
    prompt = graph.add("FluxGuidance", conditioning=prompt, guidance=4.0)["CONDITIONING"]
    latent = graph.add("EmptyFlux2LatentImage", title="Size", **size)["LATENT"]
    [steps] = recipe.steps
    sigmas = graph.add("Flux2Scheduler", title="Steps: size as above", steps=steps, **size)["SIGMAS"]
    graph.column("3. Sample", 330, SAMPLING)
    guider = graph.add("BasicGuider", model=cache["MODEL"], conditioning=prompt)["GUIDER"]
    sampled = custom_sampler(graph, guider, latent, sigmas, "euler")
    graph.column("4. Inspect", 480, SAMPLING)
    _save_image(graph, recipe, inspect(graph, sampled, cache), vae, 5)


def _save_image(graph: Graph, recipe: Recipe, latent: Output, vae: Output, number: int) -> None:
    output_column(graph, number, "Image")
    graph.add("SaveImage", images=decode(graph, latent, vae), filename_prefix=recipe.slug, tall=520)
