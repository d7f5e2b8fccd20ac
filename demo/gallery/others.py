"""Graphs of the other video models."""

from __future__ import annotations

from demo.gallery.graph import INPUT, MODELS, SAMPLING, Graph
from demo.gallery.parts import (
    Build,
    Recipe,
    Size,
    cached,
    custom_sampler,
    decode,
    diffusion_model,
    image,
    inspect,
    load,
    output_column,
    prompts,
    sample_and_save,
    save,
)
from demo.gallery.wan import HARBOUR

SHOP = (
    "A watchmaker in a small workshop lifts a tiny gear with tweezers and smiles at the camera. Warm lamp light, "
    "clocks ticking on the wall behind him, shallow depth of field. The camera pushes in slowly from a medium shot to "
    "a close-up of his hands; the gear glitters as it turns, and he puts it into an open pocket watch. The clocks "
    "tick, the gear clicks into place."
)
PICTURE = (
    "The scene of <Picture 1> comes alive: a gentle wind moves hair, leaves and cloth, and the camera slowly moves "
    "closer. Wind and distant birds are heard."
)


def minimax_h3(from_image: bool, **settings: str) -> Build:
    """ComfyUI's own settings: no guidance, so a step asks the model once."""

    def build(graph: Graph, recipe: Recipe) -> None:
        size = Size(864, 480, 124, 24)
        graph.column("1. Model, with AdaCache", 400, MODELS)
        model = diffusion_model(graph, "minimax_h3_fl2va_pruned_int8_convrot.safetensors")
        cache = cached(graph, model, **settings)
        clip = load(graph, "CLIPLoader", clip_name="qwen3vl_32b_minimax_h3_nvfp4_awq.safetensors", type="minimax")[
            "CLIP"
        ]
        vae = load(graph, "VAELoader", "VAE of the video", vae_name="minimax_h3_video_vae_fp16.safetensors")["VAE"]
        audio_vae = load(graph, "VAELoader", "VAE of the sound", vae_name="minimax_h3_audio_vae_fp32.safetensors")[
            "VAE"
        ]
        graph.column("2. Prompt and size", 420, INPUT)
        start = {"first_frame": image(graph)["IMAGE"]} if from_image else {}
        prompt = graph.add(
            "MiniMaxH3ImageToVideo",
            title="Prompt, size and length",
            clip=clip,
            vae=vae,
            prompt=PICTURE if from_image else SHOP,
            tall=330,
            **size.widgets,
            **start,
        )
        graph.column("3. Sample", 330, SAMPLING)
        [steps] = recipe.steps
        sigmas = graph.add("BasicScheduler", model=model, scheduler="simple", steps=steps)["SIGMAS"]
        guider = graph.add("BasicGuider", model=cache["MODEL"], conditioning=prompt["positive"])["GUIDER"]
        sampled = custom_sampler(graph, guider, prompt["LATENT"], sigmas, "res_multistep")
        graph.column("4. Inspect", 480, SAMPLING)
        sampled = inspect(graph, sampled, cache)
        output_column(graph, 5)
        frames = decode(graph, sampled, vae)
        audio = graph.add("VAEDecodeAudio", samples=sampled, vae=audio_vae)["AUDIO"]
        save(graph, recipe.slug, frames, size.fps, audio)

    return build


def hunyuan_video(graph: Graph, recipe: Recipe) -> None:
    size = Size(1280, 720, 121, 24)
    graph.column("1. Model, with AdaCache", 360, MODELS)
    cache = cached(graph, diffusion_model(graph, "hunyuanvideo1.5_720p_t2v_fp16.safetensors", 7.0))
    clip = load(
        graph,
        "DualCLIPLoader",
        clip_name1="qwen_2.5_vl_7b_fp8_scaled.safetensors",
        clip_name2="byt5_small_glyphxl_fp16.safetensors",
        type="hunyuan_video_15",
    )["CLIP"]
    vae = load(graph, "VAELoader", vae_name="hunyuanvideo15_vae_fp16.safetensors")["VAE"]
    graph.column("2. Prompt and size", 420, INPUT)
    conditions = prompts(graph, clip, HARBOUR, "")
    latent = graph.add("EmptyHunyuanVideo15Latent", title="Size and length", **size.widgets)["LATENT"]
    sample_and_save(graph, recipe, cache, conditions, latent, vae, 6.0, size, tiled=True)


def ltx_2(graph: Graph, recipe: Recipe) -> None:
    name, size = "ltx-2-19b-dev-fp8.safetensors", Size(960, 544, 121, 24)
    graph.column("1. Model, with AdaCache", 360, MODELS)
    checkpoint = load(graph, "CheckpointLoaderSimple", ckpt_name=name)
    cache = cached(graph, checkpoint["MODEL"])
    text_encoder = "gemma_3_12B_it_fp4_mixed.safetensors"
    clip = load(graph, "LTXAVTextEncoderLoader", text_encoder=text_encoder, ckpt_name=name)["CLIP"]
    audio_vae = load(graph, "LTXVAudioVAELoader", ckpt_name=name)["Audio VAE"]
    graph.column("2. Prompt and size", 420, INPUT)
    positive, negative = prompts(graph, clip, SHOP)
    rated = graph.add("LTXVConditioning", positive=positive, negative=negative, frame_rate=size.fps)
    picture = graph.add("EmptyLTXVLatentVideo", title="Size and length", **size.widgets)["LATENT"]
    sound = graph.add(
        "LTXVEmptyLatentAudio",
        title="Length of the sound: as the video's",
        frames_number=size.length,
        frame_rate=size.fps,
        audio_vae=audio_vae,
    )["Latent"]
    latent = graph.add("LTXVConcatAVLatent", video_latent=picture, audio_latent=sound)["latent"]
    graph.column("3. Sample", 330, SAMPLING)
    [steps] = recipe.steps
    sigmas = graph.add("LTXVScheduler", steps=steps, latent=latent)["SIGMAS"]
    conditions = {"positive": rated["positive"], "negative": rated["negative"]}
    guider = graph.add("CFGGuider", model=cache["MODEL"], cfg=4.0, **conditions)["GUIDER"]
    sampled = custom_sampler(graph, guider, latent, sigmas, "euler")
    graph.column("4. Inspect", 480, SAMPLING)
    sampled = inspect(graph, sampled, cache)
    output_column(graph, 5)
    parts = graph.add("LTXVSeparateAVLatent", av_latent=sampled)
    frames = decode(graph, parts["video_latent"], checkpoint["VAE"], tiled=True)
    audio = graph.add("LTXVAudioVAEDecode", samples=parts["audio_latent"], audio_vae=audio_vae)["Audio"]
    save(graph, recipe.slug, frames, size.fps, audio)
