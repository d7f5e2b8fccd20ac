"""Which videos constants are fitted on, and which are published: no scene and no seed is in both.

All 864 scenes that a prompt of the demo models can describe were shuffled once, before the first measurement, and dealt
into two sets: so every attribute is drawn uniformly, as in the training, and hard scenes are as frequent as there.
Nothing may be chosen by what the test scenes give: a constant, a preset, a rule, a row of a table.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass

from torch import Tensor

from demo.comfyui import REPOSITORY
from demo.scenes import ATTRIBUTES, Scene

_DEVELOPMENT_SEEDS, _TEST_SEEDS, _REAL_SEEDS = 20_000, 70_000, 90_000


@dataclass(frozen=True)
class Words:
    """A prompt of the model of video that looks real."""

    prompt: str
    motion: str = ""  # nobody has sorted its clips by that


Video = tuple[Scene | Words, int]  # with the seed of its noise


def development(count: int) -> list[Video]:
    """Videos to try ideas and fit constants on; the same ones first, whatever the count."""
    return _videos(_shuffled()[::2], count, _DEVELOPMENT_SEEDS)


def test(count: int) -> list[Video]:
    """Videos to publish numbers of; the same ones first, whatever the count."""
    return _videos(_shuffled()[1::2], count, _TEST_SEEDS)


def real(count: int) -> list[Video]:
    """Videos of the model that nothing is fitted to, so that all are for the tests: its prompts in turn."""
    prompts = list(json.loads((REPOSITORY / "demo" / "real_clips.json").read_text()).values())
    return [(Words(prompts[number % len(prompts)]), _REAL_SEEDS + number) for number in range(count)]


def embed(scene: Scene | Words) -> Tensor:
    """What the demo models are told, ``[1, tokens, 4096]``."""
    from scene_embedding import embed_scene, embed_words

    return embed_words(scene.prompt) if isinstance(scene, Words) else embed_scene(asdict(scene))


def _shuffled() -> list[Scene]:
    scenes = [Scene(*values) for values in itertools.product(*ATTRIBUTES.values())]
    # The first seed with none of the 48 scenes that constants were fitted on before among the first 48 of the tests.
    random.Random(7).shuffle(scenes)
    return scenes


def _videos(scenes: list[Scene], count: int, first_seed: int) -> list[Video]:
    if not 1 <= count <= len(scenes):
        raise ValueError(f"There are {len(scenes)} scenes of a set; asked for {count}.")
    return [(scene, first_seed + index) for index, scene in enumerate(scenes[:count])]


SETS: dict[str, Callable[[int], list[Video]]] = {"test": test, "dev": development}
