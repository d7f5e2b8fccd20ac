"""AdaCache for ComfyUI: video diffusion transformers that sample several times faster, without training."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES

WEB_DIRECTORY = "./web"


class AdaCacheExtension(ComfyExtension):
    """Registers the pack's nodes, and in a clone those of the demo, which the registry's archive does not have."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        if not Path(__file__).with_name("demo").is_dir():
            return list(NODES)
        from .demo.demo_nodes import find_weights, nodes

        find_weights()
        return [*NODES, *nodes()]


def comfy_entrypoint() -> AdaCacheExtension:
    return AdaCacheExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
