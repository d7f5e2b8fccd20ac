"""Link types of this pack."""

from comfy_api.latest import io

Motion = io.Custom("ADACACHE_MOREG")
Statistics = io.Custom("ADACACHE_STATISTICS")
Refresh = io.Custom("ADACACHE_TOKEN_REFRESH")
