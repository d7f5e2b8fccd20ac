"""ComfyUI nodes: schema, clone and bind; no maths."""

from .adacache import AdaCache
from .calibrate import AdaCacheCalibrate
from .inspector import AdaCacheInspector
from .moreg import MoRegSettings
from .token_refresh import TokenRefreshSettings

NODES = [AdaCache, MoRegSettings, TokenRefreshSettings, AdaCacheInspector, AdaCacheCalibrate]
