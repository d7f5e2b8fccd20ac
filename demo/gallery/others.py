"""Graphs of the other model families."""

from __future__ import annotations

from demo.gallery.graph import INPUT, MODELS, SAMPLING, Graph
from demo.gallery.parts import (
    SPOILS,
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
from demo.gallery.wan import ALIVE, FOX, HARBOUR

SHOP = (
    "A watchmaker in a small workshop lifts a tiny gear with tweezers and smiles at the camera. Warm lamp light, "
    "clocks ticking on the wall behind him, shallow depth of field. The camera pushes in slowly from a medium shot to "
    "a close-up of his hands; the gear glitters as it turns, and he puts it into an open pocket watch."
)
STREET = "An empty street with wet cobblestones in soft morning light, seen from a fixed camera."


def hunyuan_video(graph: Graph, recipe: Recipe) -> None:
    size = Size(1280, 720, 61, 24)
    graph.column("1. Model, with AdaCache", 360, MODELS)
    cache = cached(graph, diffusion_model(graph, "hunyuanvideo1.5_720p_t2v_fp16.safetensors", 9.0))
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


def ltx_video(graph: Graph, recipe: Recipe) -> None:
    size = Size(768, 512, 97, 25)
    graph.column("1. Model, with AdaCache", 360, MODELS)
    checkpoint = load(graph, "CheckpointLoaderSimple", ckpt_name="ltx-video-2b-v0.9.5.safetensors")
    cache = cached(graph, checkpoint["MODEL"])
    clip = load(graph, "CLIPLoader", clip_name="t5xxl_fp8_e4m3fn_scaled.safetensors", type="ltxv")["CLIP"]
    graph.column("2. Prompt and size", 420, INPUT)
    positive, negative = prompts(graph, clip, SHOP)
    rated = graph.add("LTXVConditioning", positive=positive, negative=negative, frame_rate=size.fps)
    latent = graph.add("EmptyLTXVLatentVideo", title="Size and length", **size.widgets)["LATENT"]
    graph.column("3. Sample", 330, SAMPLING)
    sigmas = graph.add("LTXVScheduler", steps=recipe.steps[0], latent=latent)["SIGMAS"]
    method = graph.add("KSamplerSelect", sampler_name="euler")["SAMPLER"]
    conditions = rated["positive"], rated["negative"]
    sampled = custom_sampler(graph, cache["MODEL"], conditions, latent, sigmas, method, 3.0)
    graph.column("4. Inspect", 480, SAMPLING)
    sampled = inspect(graph, sampled, cache)
    output_column(graph, 5)
    save(graph, recipe.name, decode(graph, sampled, checkpoint["VAE"]), size.fps)


def ltx_2(graph: Graph, recipe: Recipe) -> None:
    name, size = "ltx-2-19b-dev-fp8.safetensors", Size(960, 544, 121, 24)
    graph.column("1. Model, with AdaCache", 360, MODELS)
    checkpoint = load(graph, "CheckpointLoaderSimple", ckpt_name=name)
    cache = cached(graph, checkpoint["MODEL"])
    clip = load(graph, "LTXAVTextEncoderLoader", text_encoder="gemma_3_12B_it_fp4_mixed.safetensors", ckpt_name=name)[
        "CLIP"
    ]
    audio_vae = load(graph, "LTXVAudioVAELoader", ckpt_name=name)["Audio VAE"]
    graph.column("2. Prompt and size", 420, INPUT)
    positive, negative = prompts(graph, clip, f"{SHOP} The clocks tick, the gear clicks into place.")
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
    sigmas = graph.add("LTXVScheduler", steps=recipe.steps[0], latent=latent)["SIGMAS"]
    method = graph.add("KSamplerSelect", sampler_name="euler")["SAMPLER"]
    conditions = rated["positive"], rated["negative"]
    sampled = custom_sampler(graph, cache["MODEL"], conditions, latent, sigmas, method, 4.0)
    graph.column("4. Inspect", 480, SAMPLING)
    sampled = inspect(graph, sampled, cache)
    output_column(graph, 5)
    parts = graph.add("LTXVSeparateAVLatent", av_latent=sampled)
    frames = decode(graph, parts["video_latent"], checkpoint["VAE"], tiled=True)
    audio = graph.add("LTXVAudioVAEDecode", samples=parts["audio_latent"], audio_vae=audio_vae)["Audio"]
    save(graph, recipe.name, frames, size.fps, audio)


def mochi(graph: Graph, recipe: Recipe) -> None:
    size = Size(848, 480, 37, 24)
    graph.column("1. Model, with AdaCache", 360, MODELS)
    cache = cached(graph, diffusion_model(graph, "mochi_preview_fp8_scaled.safetensors"))
    clip = load(graph, "CLIPLoader", clip_name="t5xxl_fp8_e4m3fn_scaled.safetensors", type="mochi")["CLIP"]
    vae = load(graph, "VAELoader", vae_name="mochi_vae.safetensors")["VAE"]
    graph.column("2. Prompt and size", 420, INPUT)
    conditions = prompts(graph, clip, FOX, "")
    latent = graph.add("EmptyMochiLatentVideo", title="Size and length", **size.widgets)["LATENT"]
    sample_and_save(graph, recipe, cache, conditions, latent, vae, 4.5, size, tiled=True)


def cosmos_predict2(graph: Graph, recipe: Recipe) -> None:
    size = Size(848, 480, 93, 16)
    graph.column("1. Model, with AdaCache", 360, MODELS)
    cache = cached(graph, diffusion_model(graph, "cosmos_predict2_2B_video2world_480p_16fps.safetensors"))
    clip = load(graph, "CLIPLoader", clip_name="oldt5_xxl_fp8_e4m3fn_scaled.safetensors", type="cosmos")["CLIP"]
    vae = load(graph, "VAELoader", vae_name="wan_2.1_vae.safetensors")["VAE"]
    graph.column("2. Image, prompt and size", 420, INPUT)
    start = image(graph)["IMAGE"]
    conditions = prompts(graph, clip, ALIVE)
    latent = graph.add(
        "CosmosPredict2ImageToVideoLatent", title="Size and length", vae=vae, start_image=start, **size.widgets
    )["LATENT"]
    sample_and_save(graph, recipe, cache, conditions, latent, vae, 4.0, size, scheduler="karras")


def kandinsky(graph: Graph, recipe: Recipe) -> None:
    size = Size(768, 512, 121, 24)
    graph.column("1. Model, with AdaCache", 360, MODELS)
    cache = cached(graph, diffusion_model(graph, "kandinsky5lite_t2v_sft_5s.safetensors", 5.0))
    clip = load(
        graph,
        "DualCLIPLoader",
        clip_name1="qwen_2.5_vl_7b_fp8_scaled.safetensors",
        clip_name2="clip_l.safetensors",
        type="kandinsky5",
    )["CLIP"]
    vae = load(graph, "VAELoader", vae_name="hunyuan_video_vae_bf16.safetensors")["VAE"]
    graph.column("2. Prompt and size", 420, INPUT)
    positive, negative = prompts(graph, clip, HARBOUR, "")
    first = graph.add(
        "Kandinsky5ImageToVideo",
        title="Size and length",
        positive=positive,
        negative=negative,
        vae=vae,
        **size.widgets,
    )
    conditions = first["positive"], first["negative"]
    sample_and_save(graph, recipe, cache, conditions, first["latent"], vae, 5.0, size, scheduler="beta", tiled=True)


def cogvideox(graph: Graph, recipe: Recipe) -> None:
    """VOID: the weights of CogVideoX that exist in ComfyUI's own form."""
    size = Size(672, 384, 45, 24)
    graph.column("1. Model, with AdaCache", 360, MODELS)
    cache = cached(graph, diffusion_model(graph, "void_pass1.safetensors"))
    clip = load(graph, "CLIPLoader", clip_name="t5xxl_fp8_e4m3fn_scaled.safetensors", type="cogvideox")["CLIP"]
    vae = load(graph, "VAELoader", vae_name="cogvideox_vae.safetensors")["VAE"]
    graph.column("2. Video, and what to remove", 360, INPUT)
    video = graph.add("LoadVideo", title="Your video", file="video.mp4", tall=300)["VIDEO"]
    source = graph.add("GetVideoComponents", video=video)
    drawn = image(graph, "First frame: paint over what shall go")["MASK"]
    still = graph.add("MaskToImage", mask=drawn)
    frames = graph.add("RepeatImageBatch", title="For every frame", image=still["IMAGE"], amount=size.length)
    mask = graph.add("ImageToMask", image=frames["IMAGE"], channel="red")["MASK"]
    graph.column("3. Prompt and size", 420, INPUT)
    positive, negative = prompts(graph, clip, STREET, SPOILS)
    filled = graph.add(
        "VOIDInpaintConditioning",
        title="Size and length",
        positive=positive,
        negative=negative,
        vae=vae,
        video=source["images"],
        quadmask=mask,
        **size.widgets,
    )
    graph.column("4. Sample", 330, SAMPLING)
    sigmas = graph.add("BasicScheduler", model=cache["MODEL"], scheduler="simple", steps=recipe.steps[0])["SIGMAS"]
    method = graph.add("VOIDSampler")["SAMPLER"]
    conditions = filled["positive"], filled["negative"]
    sampled = custom_sampler(graph, cache["MODEL"], conditions, filled["latent"], sigmas, method, 6.0)
    graph.column("5. Inspect", 480, SAMPLING)
    sampled = inspect(graph, sampled, cache)
    output_column(graph, 6)
    save(graph, recipe.name, decode(graph, sampled, vae), source["fps"])
