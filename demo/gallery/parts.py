"""Pieces that several graphs share."""

from __future__ import annotations

import json
import re
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
SMALLER = "Fewer frames (*length*) first, then a smaller *width* and *height*."
SPOILS = "blurry, low quality, still image, overexposed, deformed hands, extra limbs, flicker, watermark, subtitles"


@dataclass(frozen=True)
class Recipe:
    """A graph of the gallery.

    Attributes:
        title: of the model, or of what is tried.
        task: what it does. Title and task are the file's name, which the template browser shows.
        about: first words of the note.
        build: adds the nodes to a graph that has the note's column already.
        steps: of one sampling run, in the parts that it is sampled in.
        runs: how often AdaCache sees such a run.
        run: what to do before pressing Run.
        memory: what to change on a smaller card.
        hints: further ones on AdaCache; may name how many steps a preset computes, as ``{fast}``, and ``{total}``.
        drawn: preset of each row of the card; ``None`` computes every step.
        caption: under them; how many steps are computed, if not given.
        demo: needs nothing that is not in this repository, and is not in the registry's archive.
    """

    title: str
    task: str
    about: str
    build: Build
    steps: tuple[int, ...] = (20,)
    runs: int = 1
    run: str = "Write what the video shows."
    memory: str = SMALLER
    hints: tuple[str, ...] = ()
    drawn: tuple[str | None, ...] = ("balanced",)
    caption: str = ""
    demo: bool = False

    @property
    def name(self) -> str:
        """Of the file."""
        return f"{self.title} {self.task}"

    @property
    def slug(self) -> str:
        """Name of what it saves."""
        return "adacache_" + re.sub(r"\W+", "_", self.name.removeprefix("AdaCache ")).lower()


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


def cached(graph: Graph, model: Output, title: str | None = None, **settings: Any) -> Node:
    """AdaCache, in its default settings but for those given."""
    return graph.add("AdaCache", title=title, model=model, **settings)


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
    seed: Output | int = SEED,
    method: str = "euler",
    title: str | None = None,
) -> Output:
    """A sampler in one node."""
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
        sampler_name=method,
        scheduler="simple",
    )
    return node["LATENT"]


def custom_sampler(graph: Graph, guider: Output, latent: Output, sigmas: Output, method: str) -> Output:
    """The sampler in parts."""
    noise = graph.add("RandomNoise", noise_seed=SEED)["NOISE"]
    chosen = graph.add("KSamplerSelect", sampler_name=method)["SAMPLER"]
    node = graph.add(
        "SamplerCustomAdvanced", noise=noise, guider=guider, sampler=chosen, sigmas=sigmas, latent_image=latent
    )
    return node["output"]


def inspect(graph: Graph, latent: Output, *caches: Node, reference: Output | None = None) -> Output:
    """The inspector behind a sampler, last in its column: it grows when it has something to show."""
    links = dict(zip(("statistics", "statistics_2"), (cache["statistics"] for cache in caches), strict=False))
    if reference is not None:
        links["reference"] = reference
    return graph.add("AdaCacheInspector", latent=latent, tall=240 + 480 * len(caches), **links)["latent"]


def output_column(graph: Graph, number: int, what: str = "Video") -> None:
    """The last column."""
    graph.column(f"{number}. {what}", 420, OUTPUT)


def decode(graph: Graph, latent: Output, vae: Output, tiled: bool = False) -> Output:
    """Frames of a latent; in tiles where the whole would take more memory than sampling."""
    return graph.add("VAEDecodeTiled" if tiled else "VAEDecode", samples=latent, vae=vae)["IMAGE"]


def save(graph: Graph, name: str, frames: Output, fps: Output | float, audio: Output | None = None) -> Node:
    """A video file."""
    sound = {} if audio is None else {"audio": audio}
    video = graph.add("CreateVideo", images=frames, fps=fps, **sound)["VIDEO"]
    return graph.add("SaveVideo", video=video, filename_prefix=f"video/{name}", tall=520)


def sample_and_save(
    graph: Graph,
    recipe: Recipe,
    cache: Node,
    conditions: tuple[Output, Output],
    latent: Output,
    vae: Output,
    cfg: float,
    size: Size,
    tiled: bool = False,
) -> None:
    """The last two columns of most graphs."""
    graph.column("3. Sample and inspect", 480, SAMPLING)
    sampled = sampler(graph, cache["MODEL"], conditions, latent, steps=sum(recipe.steps), cfg=cfg)
    sampled = inspect(graph, sampled, cache)
    output_column(graph, 4)
    save(graph, recipe.slug, decode(graph, sampled, vae, tiled), size.fps)
