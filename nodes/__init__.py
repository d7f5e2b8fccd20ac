"""ComfyUI nodes: schema, clone and bind; no maths."""

from .adacache import AdaCache
from .ar_cache import ARCache
from .inspector import AdaCacheInspector
from .moreg import MoRegSettings

NODES = [AdaCache, MoRegSettings, ARCache, AdaCacheInspector]
