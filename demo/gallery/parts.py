"""Pieces that several graphs share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.gallery.graph import OUTPUT, SAMPLING, Graph, Node, Output
from demo.workflow import Json

MODELS: dict[str, Json] = {
    row["name"]: row for row in json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
}
Build = Callable[[Graph, "Recipe"], None]
SEED = 42
SMALLER = "Fewer frames (`length`) first, then a smaller `width` and `height`."
SPOILS = "blurry, low quality, still image, overexposed, deformed hands, extra limbs, flicker, watermark, subtitles"


@dataclass(frozen=True)
class Recipe:
    """A graph of the gallery.

    Attributes:
        name: of the file.
        title: for people, in the note and on the card.
        task: what it does, on the card.
        about: first words of the note.
        build: adds the nodes to a graph that has the note's column already.
        steps: sampling steps of each run that AdaCache sees.
        run: what to do before pressing Run.
        memory: what to change on a smaller card.
        extra: a further hint on AdaCache.
        comparison: makes one video twice.
    """

    name: str
    title: str
    task: str
    about: str
    build: Build
    steps: tuple[int, ...] = (30,)
    run: str = "Write what the video shows."
    memory: str = SMALLER
    extra: str = ""
    comparison: bool = False


@dataclass(frozen=True)
class Size:
    """Of a video: pixels, frames, frames per second."""

    width: int
    height: int
    length: int
    fps: float

    @property
    def widgets(self) -> dict[str, int]:
        return {"width": self.width, "height": self.height, "length": self.length}


def files_of(values: Json) -> list[Json]:
    """The model files among the values of a node."""
    return [MODELS[value] for value in values.values() if isinstance(value, str) and value in MODELS]


def load(graph: Graph, kind: str, title: str | None = None, **values: Any) -> Node:
    """A loader, with where its files come from."""
    return graph.add(kind, title=title, files=files_of(values), **values)


def diffusion_model(graph: Graph, name: str, shift: float | None = None, title: str | None = None) -> Output:
    """A diffusion model, with the shift of its noise schedule."""
    model = load(graph, "UNETLoader", title, unet_name=name, weight_dtype="default")["MODEL"]
    return model if shift is None else graph.add("ModelSamplingSD3", model=model, shift=shift)["MODEL"]


def cached(graph: Graph, model: Output, title: str | None = None, moreg: Output | None = None) -> Node:
    """AdaCache in its default settings."""
    return graph.add("AdaCache", title=title, model=model, **({"moreg": moreg} if moreg else {}))


def wan_text(graph: Graph) -> tuple[Output, Output]:
    """Wan's text encoder, and the VAE of Wan 2.1."""
    clip = load(graph, "CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan")
    return clip["CLIP"], load(graph, "VAELoader", vae_name="wan_2.1_vae.safetensors")["VAE"]


def prompts(graph: Graph, clip: Output, prompt: str, spoils: str = SPOILS) -> tuple[Output, Output]:
    """Prompt and negative prompt."""
    positive = graph.add("CLIPTextEncode", title="Prompt", clip=clip, text=prompt, tall=190)
    negative = graph.add("CLIPTextEncode", title="Negative prompt", clip=clip, text=spoils, tall=120)
    return positive["CONDITIONING"], negative["CONDITIONING"]


def image(graph: Graph, title: str = "Start image", bypassed: bool = False) -> Node:
    """A picture to choose."""
    return graph.add("LoadImage", title=title, image="example.png", tall=330, bypassed=bypassed)


def sampler(
    graph: Graph,
    model: Output,
    conditions: tuple[Output, Output],
    latent: Output,
    *,
    steps: int,
    cfg: float,
    scheduler: str = "simple",
    seed: Output | int = SEED,
    title: str | None = None,
) -> Output:
    """An Euler sampler."""
    node = graph.add(
        "KSampler",
        title=title,
        model=model,
        positive=conditions[0],
        negative=conditions[1],
        latent_image=latent,
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler_name="euler",
        scheduler=scheduler,
    )
    return node["LATENT"]


def custom_sampler(
    graph: Graph,
    model: Output,
    conditions: tuple[Output, Output],
    latent: Output,
    sigmas: Output,
    method: Output,
    cfg: float,
) -> Output:
    """The sampler in parts."""
    noise = graph.add("RandomNoise", noise_seed=SEED)["NOISE"]
    guider = graph.add("CFGGuider", model=model, positive=conditions[0], negative=conditions[1], cfg=cfg)["GUIDER"]
    node = graph.add(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=method, sigmas=sigmas, latent_image=latent
    )
    return node["output"]


def inspect(graph: Graph, latent: Output, *caches: Node, title: str | None = None) -> Output:
    """The inspector behind a sampler."""
    statistics = dict(zip(("statistics", "statistics_2"), (cache["statistics"] for cache in caches), strict=False))
    return graph.add("AdaCacheInspector", title=title, latent=latent, tall=560, **statistics)["latent"]


def output_column(graph: Graph, number: int) -> None:
    """The last column."""
    graph.column(f"{number}. Video", 420, OUTPUT)


def decode(graph: Graph, latent: Output, vae: Output, tiled: bool = False) -> Output:
    """Frames of a latent; in tiles where the whole would take more memory than sampling."""
    return graph.add("VAEDecodeTiled" if tiled else "VAEDecode", samples=latent, vae=vae)["IMAGE"]


def save(graph: Graph, name: str, frames: Output, fps: Output | float, audio: Output | None = None) -> None:
    """A video file."""
    sound = {} if audio is None else {"audio": audio}
    video = graph.add("CreateVideo", images=frames, fps=fps, **sound)["VIDEO"]
    graph.add("SaveVideo", video=video, filename_prefix=f"video/adacache_{name}", tall=460)


def sample_and_save(
    graph: Graph,
    recipe: Recipe,
    cache: Node,
    conditions: tuple[Output, Output],
    latent: Output,
    vae: Output,
    cfg: float,
    size: Size,
    scheduler: str = "simple",
    tiled: bool = False,
) -> None:
    """The last two columns of most graphs."""
    graph.column("3. Sample and inspect", 480, SAMPLING)
    [steps] = recipe.steps
    sampled = sampler(graph, cache["MODEL"], conditions, latent, steps=steps, cfg=cfg, scheduler=scheduler)
    sampled = inspect(graph, sampled, cache)
    output_column(graph, 4)
    save(graph, recipe.name, decode(graph, sampled, vae, tiled), size.fps)
