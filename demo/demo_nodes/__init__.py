"""Nodes of the demo: prompts for its models, in place of a text encoder of several gigabytes; and its weights."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import ComfyExtension, io

from .scene_embedding import ATTRIBUTES, embed_empty, embed_scene


class AdaCacheDemoScene(io.ComfyNode):
    """A prompt: one value of each attribute."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheDemoScene",
            display_name="AdaCache Demo Scene",
            category="AdaCache/demo",
            description="Says what the demo model shall draw.",
            inputs=[io.Combo.Input(name, options=list(values)) for name, values in ATTRIBUTES.items()],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, **attributes: str) -> io.NodeOutput:
        return io.NodeOutput([[embed_scene(attributes), {}]])


class AdaCacheDemoEmpty(io.ComfyNode):
    """The empty prompt, for the negative side of guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheDemoEmpty",
            display_name="AdaCache Demo Empty Prompt",
            category="AdaCache/demo",
            description="The demo model's empty prompt.",
            inputs=[],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput([[embed_empty(), {}]])


def nodes() -> list[type[io.ComfyNode]]:
    """Those above."""
    return [AdaCacheDemoScene, AdaCacheDemoEmpty]


def find_weights() -> None:
    """Lists the demo's weights among ComfyUI's models, behind the user's own."""
    for kind in ("diffusion_models", "vae"):
        folder_paths.add_model_folder_path(kind, str(Path(__file__).resolve().parents[1] / "weights"))


class DemoExtension(ComfyExtension):
    """The nodes alone, for a pack that was installed from the registry's archive."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return nodes()


def comfy_entrypoint() -> DemoExtension:
    return DemoExtension()
