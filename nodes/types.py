"""Link types of this pack, and what its schemas have in common."""

from collections.abc import Callable

from comfy_api.latest import io

from ..adacache_core import ConfigurationError

Motion = io.Custom("ADACACHE_MOREG")
Refresh = io.Custom("ADACACHE_TOKEN_REFRESH")
Statistics = io.Custom("ADACACHE_STATISTICS")

CATEGORY = "advanced/model"
EXPERIMENTAL = f"{CATEGORY}/experimental"


def percent(name: str, default: float, tooltip: str) -> io.Float.Input:
    """A part of sampling, 0 to 1."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def accepts(make: Callable[[], object]) -> bool | str:
    """For ``validate_inputs``: True, or why these settings cannot be made."""
    try:
        make()
    except ConfigurationError as error:
        return str(error)
    return True
