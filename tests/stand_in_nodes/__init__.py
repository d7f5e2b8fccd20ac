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
        row = tiny_models.family(family)
        extra = {name: value for name, value in row.conditioning().items() if name in TEXT}
        return io.NodeOutput([[tiny_models.noise(1, *row.text, seed=seed), extra]])


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
        return [StandInPrompt, StandInClipVision, StandInBlocker]


def comfy_entrypoint() -> StandInExtension:
    return StandInExtension()
