"""Models for the ways of sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def trained(pack: Any, demo_weights: Path) -> Any:
    """The demo model at shift 3."""
    import comfy.sd
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    model = comfy.sd.load_diffusion_model(str(demo_weights / "adacache_demo_dit.safetensors"))
    return ModelSamplingSD3().patch(model, 3.0)[0]
