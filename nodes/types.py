"""Link types of this pack, and an input."""

from comfy_api.latest import io

Motion = io.Custom("ADACACHE_MOREG")
Refresh = io.Custom("ADACACHE_TOKEN_REFRESH")
Statistics = io.Custom("ADACACHE_STATISTICS")


def percent(name: str, default: float, tooltip: str) -> io.Float.Input:
    """A part of sampling, 0 to 1."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)
