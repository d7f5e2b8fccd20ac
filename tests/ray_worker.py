"""A worker as Raylight's: an actor of Ray's with a whole model and a process group, here on the CPU with gloo.

Imported in the actors' processes; ``RayWorker`` has those methods of Raylight's that its nodes and ours call.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

# A rank that waits for another that does not come gives up after so many seconds.
PATIENCE = 4


class RayWorker:
    """One rank; ``parallel_dict`` is like Raylight's.

    With ``cfg_degree`` 2 each rank computes one condition, with ``is_fsdp`` each samples a video of its own, else each
    contributes its part of the video's rows. In all cases a forward needs all ranks.
    """

    def __init__(self) -> None:
        import torch
        from comfy import cli_args

        # First, since Ray puts the driver's folder there, whose nodes/ has the name of ComfyUI's nodes.py.
        sys.path.insert(0, str(Path(cli_args.__file__).parents[1]))
        cli_args.args.cpu = True
        torch.set_num_threads(1)
        import tiny_models
        from comfy.patcher_extension import WrappersMP

        self.parallel: dict[str, Any] = {}
        self.trouble: tuple[str, int] | None = None
        self.calls = 0
        self.model = tiny_models.load("WAN21_T2V")
        self.common_ksampler(1, steps=2)  # the first one imports for seconds
        self.model.add_wrapper(WrappersMP.DIFFUSION_MODEL, self._forward)

    def join(self, rank: int, world: int, meeting: str) -> None:
        """Meet the others at a file; again after a rank was lost, since gloo forgives no missed meeting."""
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()
        patience = timedelta(seconds=PATIENCE)
        distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=patience
        )

    def set_parallel_dict(self, parallel: dict[str, Any]) -> None:
        self.parallel = parallel

    def get_parallel_dict(self) -> dict[str, Any]:
        return self.parallel

    def model_function_runner(self, function: Any, *args: Any, **kwargs: Any) -> None:
        self.model = function(self.model, *args, **kwargs)

    def model_function_runner_get_values(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self.model, *args, **kwargs)

    def common_ksampler(self, seed: int, **arguments: Any) -> Any:
        """Samples the whole video, as every rank of Raylight's does."""
        import torch
        from tiny_wan import sample

        self.calls = 0
        with torch.no_grad():
            return sample(self.model, seed=seed, **arguments)

    def plan_trouble(self, kind: str | None = None, at: int = 0) -> None:
        """At the so manieth forward of every later sampling: ``oom``, ``interrupt``, ``late`` or ``die``."""
        self.trouble = None if kind is None else (kind, at)

    def count_forwards(self) -> int:
        """Of the last sampling."""
        return self.calls

    def get_left(self) -> tuple[int, list[str]]:
        """Bytes of all tensors in the process, and what is on the model beside the worker's own wrappers."""
        import tiny_wan

        gc.collect()
        ours = [key for kinds in self.model.wrappers.values() for key in kinds if key is not None]
        return tiny_wan.memory(), [*ours, *self.model.attachments, *tiny_wan.shadows(self.model.model)]

    def get_resident(self) -> int:
        """Bytes of memory of the process."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _forward(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        import torch
        from comfy import model_management

        kind, at = self.trouble or ("", -1)
        self.calls += 1
        if self.calls == at + 1:
            if kind == "oom":
                raise torch.OutOfMemoryError("simulated")
            if kind == "interrupt":
                raise model_management.InterruptProcessingException
            if kind == "late":
                time.sleep(1)
            if kind == "die":
                os._exit(1)
        share = _share_rows
        if self.parallel.get("cfg_degree", 1) > 1:
            share = _share_conditions
        elif self.parallel.get("is_fsdp"):
            share = _share_weights
        return share(executor, *args, **kwargs)


def _gathered(part: Any, dim: int) -> Any:
    import torch
    from torch import distributed

    parts = [torch.empty_like(part) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, part.contiguous())
    return torch.cat(parts, dim)


def _share_rows(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Like sequence parallelism: what a rank knows for sure is its part, the others' come from them."""
    from torch import distributed

    whole = executor(*args, **kwargs)
    part = whole.chunk(distributed.get_world_size(), 3)[distributed.get_rank()]
    return _gathered(part, 3)


def _share_weights(executor: Any, *args: Any, **kwargs: Any) -> Any:
    from torch import distributed

    distributed.barrier()
    return executor(*args, **kwargs)


def _share_conditions(executor: Any, x: Any, timestep: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
    """Like Raylight's CFG parallelism, which refuses other than two conditions as well."""
    from torch import distributed

    rank, world = distributed.get_rank(), distributed.get_world_size()
    if x.shape[0] != world:
        raise ValueError("CFG = 1.0, disables guidance.")
    part = executor(*(tensor.chunk(world)[rank] for tensor in (x, timestep, context)), *args, **kwargs)
    return _gathered(part, 0)
