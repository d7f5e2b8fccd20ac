"""Test-only nodes: what full-size text and image encoders would give, for the tiny models of ``tiny_models.py``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.model_management
from comfy_api.latest import ComfyExtension, io
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

sys.path.append(str(Path(__file__).resolve().parents[1]))
import tiny_models

# Of what the families' nodes add to a prompt, what comes from the text encoder.
TEXT = ("pooled_output", "attention_mask", "conditioning_byt5small")


class StandInPrompt(io.ComfyNode):
    """A family's prompt: noise in place of the text encoder's output."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StandInPrompt",
            category="tests",
            inputs=[io.String.Input("family"), io.Int.Input("seed")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, family: str, seed: int) -> io.NodeOutput:
        return io.NodeOutput(encoded(family, seed))


def encoded(family: str, seed: int) -> list[list[Any]]:
    """A prompt as a family's text encoder gives it; ``images`` is any of the image models."""
    if family == "images":
        return [[tiny_models.noise(1, 6, 64, seed=seed), {}]]
    row = tiny_models.family(family)
    extra = {name: value for name, value in row.conditioning().items() if name in TEXT}
    return [[tiny_models.noise(1, *row.text, seed=seed), extra]]


class StandInClip(io.ComfyNode):
    """A family's text encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StandInClip",
            category="tests",
            inputs=[io.String.Input("family")],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, family: str) -> io.NodeOutput:
        return io.NodeOutput(TextEncoder(family))


class TextEncoder:
    """What the nodes that encode prompts ask of a CLIP."""

    def __init__(self, family: str) -> None:
        self.family = family

    def tokenize(self, text: str, **images: Any) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str, **options: Any) -> Any:
        return encoded(self.family, len(tokens))


class StandInVae(io.ComfyNode):
    """The VAEs of which only full-size ones can be loaded: MiniMax H3's two, and FLUX.2's."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StandInVae",
            category="tests",
            inputs=[io.Combo.Input("of", options=["video", "image", "sound"])],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls, of: str) -> io.NodeOutput:
        return io.NodeOutput(Decoder(of))


class Decoder:
    """Three channels of the latent as colours, 16 x 16 pixels each; or all as sound."""

    audio_sample_rate = 32000

    def __init__(self, of: str) -> None:
        self.of = of

    def encode(self, pixels: Tensor) -> Tensor:
        return avg_pool2d(pixels.movedim(-1, 1), 16).repeat(1, 8, 1, 1)[:, :, None]

    def decode(self, latent: Tensor) -> Tensor:
        if self.of == "sound":  # 800 samples of two channels a moment
            return latent.mean(1).repeat_interleave(800, -1).movedim(1, -1)
        size = [16 * side for side in latent.shape[-2:]]
        if self.of == "video":
            size.insert(0, (latent.shape[2] - 2) // 5 * 17 + 5)
        return interpolate(latent[:, :3], size).sigmoid().movedim(1, -1)


class StandInClipVision(io.ComfyNode):
    """What an image encoder would say of an image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StandInClipVision",
            category="tests",
            inputs=[io.Image.Input("image")],
            outputs=[io.ClipVisionOutput.Output()],
        )

    @classmethod
    def execute(cls, image: Any) -> io.NodeOutput:
        return io.NodeOutput(tiny_models.family("WAN21_I2V").conditioning()["clip_vision_output"])


class StandInBlocker(io.ComfyNode):
    """Keeps the server busy until it is interrupted, so that prompts are validated and wait."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="StandInBlocker", category="tests", is_output_node=True, not_idempotent=True)

    @classmethod
    def execute(cls) -> io.NodeOutput:
        while True:
            comfy.model_management.throw_exception_if_processing_interrupted()
            time.sleep(0.02)


detect = comfy.model_detection.detect_unet_config


def detect_shrunk(state_dict: Any, key_prefix: str, metadata: dict[str, str] | None = None) -> Any:
    """ComfyUI's detection, with the sizes that it takes from constants in place of the checkpoint (Mochi)."""
    found = detect(state_dict, key_prefix, metadata=metadata)
    return found and {**found, **json.loads((metadata or {}).get("shrink", "{}"))}


comfy.model_detection.detect_unet_config = detect_shrunk


class StandInExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [StandInPrompt, StandInClip, StandInVae, StandInClipVision, StandInBlocker]


def comfy_entrypoint() -> StandInExtension:
    return StandInExtension()
