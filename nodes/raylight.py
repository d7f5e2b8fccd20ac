"""The AdaCache (Raylight) node: RAY_ACTORS in, RAY_ACTORS whose samplers cache out.

Raylight (komikndr/raylight) keeps the model in Ray's workers, one a GPU, and lets each of them sample the whole video:
they share the work inside the model, and all have all of what it predicts. So every worker keeps and forecasts by
itself, plans alike, and tells the others nothing but how much moves (see the core's ``motion``). Patches reach a worker
as pickled functions, as this one does; but a patch stays with the worker's model, so that a bypassed node would go on
caching. Therefore a worker is bound when it starts to sample, and released when it is done.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

import folder_paths
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io

from ..adacache_core import SPEEDUPS, AdaCacheError, ConfigurationError, RunStatistics, WindowStatistics
from . import predictions
from .adacache import AdaCache, settings_of
from .other_caches import refuse_second_cache
from .ray_log import RayLog, sender
from .runs import RunLog
from .settings import TARGET, Settings

KEY = predictions.KEY
# For a worker that is still busy with a sampling that was given up: Raylight's process group gives up after a minute.
_SECONDS = 120
_KINDS = (WrappersMP.SAMPLER_SAMPLE, WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH)
_RayActors = io.Custom("RAY_ACTORS")


def installed() -> bool:
    """Whether Raylight is. Its folder is asked for, since it may be loaded later than this pack."""
    folders = [Path(folder) for folder in folder_paths.get_folder_paths("custom_nodes")]
    packs = [found.parents[2].name for folder in folders for found in folder.glob("*/src/raylight/nodes.py")]
    return find_spec("ray") is not None and any(not name.endswith(".disabled") for name in packs)


class AdaCacheRaylight(io.ComfyNode):
    """Wraps Raylight's workers so that what they sample skips the steps whose result is known well enough."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = AdaCache.define_schema()
        schema.node_id, schema.display_name = "AdaCacheRaylight", "AdaCache (Raylight)"
        schema.description = (
            "AdaCache for models that Raylight samples on several GPUs: runs them only at the steps that matter, on "
            "all GPUs alike. Connect it between Raylight's loader (and its other patches) and its sampler."
        )
        schema.search_aliases = [*schema.search_aliases, "raylight", "ray", "multi gpu", "xdit", "usp"]
        for choice in schema.inputs:
            if choice.id == "preset":
                choice.options = [option for option in choice.options if option.key in (*SPEEDUPS, TARGET)]
        actors = _RayActors.Input("ray_actors", tooltip="From Raylight's loader.")
        schema.inputs = [actors, *(one for one in schema.inputs if one.id not in ("model", "token_refresh"))]
        returned = _RayActors.Output("ray_actors", tooltip="The workers with the cache; connect them to the sampler.")
        schema.outputs = [returned, *schema.outputs[1:]]
        return schema

    @classmethod
    def validate_inputs(cls, **inputs: Any) -> bool | str:
        return AdaCache.validate_inputs(**inputs)

    @classmethod
    def execute(cls, ray_actors: dict[str, Any], **choices: Any) -> io.NodeOutput:
        return io.NodeOutput(*bind(ray_actors, settings_of(**choices), cls.hidden.unique_id))


def bind(ray_actors: dict[str, Any], settings: Settings, node_id: str | None) -> tuple[dict[str, Any], RunLog]:
    """Workers that cache while they sample, and the log that statistics of the first one go to.

    Args:
        ray_actors: Raylight's, with a list of ``workers``.
        settings: the user's choices.
        node_id: the node, for live progress; None without.

    Raises:
        ConfigurationError: a preset that looks into the model, pipelined blocks, or a second cache.
    """
    if not settings.planned:
        raise ConfigurationError(
            f"AdaCache: preset {settings.preset} compares residuals inside the model, of which each of Raylight's "
            f"workers has a part only. Choose balanced, quality, fast or target."
        )
    if any(isinstance(worker, _Caching) for worker in ray_actors["workers"]):
        raise ConfigurationError("AdaCache: the workers already have an AdaCache (Raylight). Remove one of the two.")
    if _got(ray_actors["workers"][0].get_parallel_dict.remote()).get("pipefusion_enabled"):
        raise ConfigurationError(
            "AdaCache: PipeFusion computes with attention of the step before, which a skipped step does not have. "
            "Remove Raylight's PipeFusion node, or bypass AdaCache (Raylight)."
        )
    log = RayLog()
    workers = [
        _Caching(actor, settings, node_id, log if rank == 0 else None)
        for rank, actor in enumerate(ray_actors["workers"])
    ]
    # Now, too: when they sample, an error of one would leave the others waiting for it.
    bound = [worker._bind() for worker in workers]
    for worker in workers:
        worker._release()
    _got(bound)
    return {**ray_actors, "workers": workers}, log


class _Caching:
    """A worker as Raylight's nodes use it, but for its samplers."""

    def __init__(self, actor: Any, settings: Settings, node_id: str | None, log: RayLog | None) -> None:
        self._actor, self._settings, self._node_id, self._log = actor, settings, node_id, log

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and name != "__ray_ready__":
            raise AttributeError(name)
        method = getattr(self._actor, name)
        return _Sampler(self, method) if "sampler" in name else method

    def _bind(self, key: str | None = None) -> Any:
        given = pickle.dumps((self._settings, key))
        return self._actor.model_function_runner.remote(_there("bind_here", given))

    def _release(self) -> Any:
        return self._actor.model_function_runner_get_values.remote(_there("release_here"))

    def _sample(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        key = f"adacache-{uuid4().hex}" if self._log is not None else None
        try:
            _got(self._bind(key))
            return method.remote(*args, **kwargs)
        finally:
            released = self._release()  # a worker does one thing after the other, whatever becomes of the first
            if self._log is not None and key is not None:
                self._log.follow(self._node_id, key, released)


class _Sampler:
    """A method of a worker that samples."""

    def __init__(self, worker: _Caching, method: Any) -> None:
        self.remote = partial(worker._sample, method)


def _got(references: Any) -> Any:
    """What Ray's references stand for."""
    import ray

    try:
        return ray.get(references, timeout=_SECONDS)
    except ray.exceptions.GetTimeoutError as error:
        raise AdaCacheError(
            f"AdaCache: a worker of Raylight did not answer within {_SECONDS} seconds. It hangs, or still samples what "
            f"was given up. End the workers with Raylight's node Kill Ray."
        ) from error


def _there(action: str, given: bytes = b"") -> Callable[[Any], Any]:
    """A function of a worker's model that calls one of this module's with it, in the worker.

    It is nested, and knows strings only, so that it is pickled as a whole: ComfyUI gives a pack's modules names that no
    other process can import. There the pack gets the same name, and so do pickled settings and statistics.
    """
    folder = Path(__file__).resolve().parents[1]
    pack, places = __name__.removesuffix(".nodes.raylight"), [str(folder), str(Path("custom_nodes", folder.name))]

    def travelling(model: Any) -> Any:
        import importlib
        import sys
        import types

        if pack not in sys.modules:
            sys.modules[pack] = types.ModuleType(pack)
            sys.modules[pack].__path__ = places
        return getattr(importlib.import_module(f"{pack}.nodes.raylight"), action)(model, given)

    return travelling


def bind_here(model: Any, given: bytes) -> Any:
    """In a worker: put a cache on its model, in place; returns the model."""
    settings, key = pickle.loads(given)
    release_here(model)
    refuse_second_cache(model, model.model_options)
    log = RunLog()
    predictions.add(model, settings, log, None if key is None else sender(key))
    model.set_attachments(KEY, log)
    return model


def release_here(model: Any, given: bytes = b"") -> list[RunStatistics | WindowStatistics]:
    """In a worker: take the cache off; returns the statistics of what it sampled."""
    for kind in _KINDS:
        model.remove_wrappers_with_key(kind, KEY)
    log = model.get_attachment(KEY)
    model.remove_attachments(KEY)
    return [] if log is None else [run.statistics for run in log.of_prompt(None)]
