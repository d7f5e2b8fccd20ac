"""The demo model's text encoder: one fixed random token per attribute value. No file, no language."""

from __future__ import annotations

import zlib

import torch

TEXT_DIM = 4096  # the width that ComfyUI expects of a Wan model's text encoder

WORDS = 10  # of a prompt that is a sentence

ATTRIBUTES = {
    "motion": ("still", "slow", "fast", "changing"),
    "camera": ("static", "pan"),
    "background": ("plain", "textured"),
    "objects": ("1", "2", "3"),
    "color": ("red", "orange", "yellow", "green", "blue", "magenta"),
    "shape": ("circle", "square", "triangle"),
}


def embed_scene(attributes: dict[str, str]) -> torch.Tensor:
    """[1, len(attributes), 4096]: a standard normal token for each attribute's value, the same on every machine.

    Raises:
        ValueError: an attribute or a value that `ATTRIBUTES` does not list.
    """
    for name, value in attributes.items():
        if value not in ATTRIBUTES.get(name, ()):
            raise ValueError(f"{name}={value}: expected one of {ATTRIBUTES.get(name, tuple(ATTRIBUTES))}")
    return torch.stack([_token(f"{name}={value}") for name, value in attributes.items()])[None]


def embed_empty() -> torch.Tensor:
    """[1, 1, 4096]: the empty prompt, one zero token."""
    return torch.zeros(1, 1, TEXT_DIM)


def embed_words(prompt: str) -> torch.Tensor:
    """[1, WORDS, 4096]: a token for each word, then zeros. ValueError for more words than ``WORDS``."""
    words = prompt.split()
    if len(words) > WORDS:
        raise ValueError(f"{prompt}: expected at most {WORDS} words, got {len(words)}.")
    tokens = torch.zeros(1, WORDS, TEXT_DIM)
    for place, word in enumerate(words):
        tokens[0, place] = _token(word)
    return tokens


def _token(word: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
    return torch.randn(TEXT_DIM, generator=generator)
