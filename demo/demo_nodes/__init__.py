"""Test-only nodes: prompts for the demo model, in place of a text encoder of several gigabytes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .scene_embedding import ATTRIBUTES, embed_empty, embed_scene


class AdaCacheDemoScene(io.ComfyNode):
    """A prompt: one value of each attribute."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheDemoScene",
            display_name="Demo Scene (test only)",
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
            display_name="Demo Empty Prompt (test only)",
            category="AdaCache/demo",
            description="The demo model's empty prompt.",
            inputs=[],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput([[embed_empty(), {}]])


class DemoExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [AdaCacheDemoScene, AdaCacheDemoEmpty]


def comfy_entrypoint() -> DemoExtension:
    return DemoExtension()
