"""AdaCache for ComfyUI: video diffusion transformers that sample several times faster, without training."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES

WEB_DIRECTORY = "./web"


class AdaCacheExtension(ComfyExtension):
    """Registers the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)


def comfy_entrypoint() -> AdaCacheExtension:
    return AdaCacheExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
