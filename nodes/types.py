"""Link types of this pack."""

from comfy_api.latest import io

Calibration = io.Custom("ADACACHE_CALIBRATION")
Motion = io.Custom("ADACACHE_MOREG")
Statistics = io.Custom("ADACACHE_STATISTICS")
