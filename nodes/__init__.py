"""ComfyUI nodes: schema, clone and bind; no maths."""

from .adacache import AdaCache
from .ar_cache import ARCache
from .card import AdaCacheCard
from .inspector import AdaCacheInspector
from .moreg import MoRegSettings
from .raylight import AdaCacheRaylight, installed
from .sampler import AdaCacheSampler
from .token_refresh import TokenRefreshSettings

NODES = [AdaCache, MoRegSettings, TokenRefreshSettings, ARCache, AdaCacheSampler, AdaCacheInspector, AdaCacheCard]
if installed():
    NODES.append(AdaCacheRaylight)
