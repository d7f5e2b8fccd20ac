"""Two processes that hold half of the tokens each decide as one process that holds all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

from adacache_core import (
    FORECAST,
    Blocks,
    CacheRun,
    Codebook,
    CodebookSchedule,
    Layout,
    MotionRegularization,
    RunStatistics,
    Stream,
    motion_score,
    residual_distance,
)

STEPS, FRAMES, TOKENS, RANKS = 14, 4, 6, 2
SIGMAS = [1 - step / STEPS for step in range(STEPS + 1)]
LAYOUT = Layout("mixing", "x", (Blocks("blocks"),), (Stream("head"),), patch=(1, 1, 1))
COMPARED = ("computed", "rate", "distance", "motion_score", "motion_gradient", "forecast_error")


class Mixing(nn.Module):
    """A block per channel and head, so that a part of the tokens gives the same part of the result."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 8)])
        self.head = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.blocks[0](x)))


def decisions(rank: int, ranks: int, group: torch.distributed.ProcessGroup | None) -> list[dict[str, float | None]]:
    torch.manual_seed(0)
    model = Mixing().requires_grad_(False)
    video = torch.randn(1, FRAMES * TOKENS, 8)
    # Halves that are unlike each other: what changes from step to step is in the last frames.
    change = torch.cat((torch.zeros(1, FRAMES * TOKENS // 2, 1), torch.ones(1, FRAMES * TOKENS // 2, 1)), dim=1)
    mine, changing = (x.chunk(ranks, dim=1)[rank] for x in (video, change))
    latent = (1, 1, FRAMES if group else FRAMES // ranks, 2, 3)
    schedule = CodebookSchedule(
        Codebook(((0.05, 3), (0.2, 2), (1.0, 1))), STEPS, MotionRegularization(scale=1, exponent=1)
    )
    run = CacheRun(lambda: schedule, FORECAST, SIGMAS, RunStatistics({}, STEPS), group=group, calibrates=1)
    for step, sigma in enumerate(SIGMAS[:-1]):
        with run.call(model, LAYOUT, sigma, ("positive",), latent):
            model(mine * (1 + changing * (step / STEPS) ** 2))
    return [{name: getattr(record, name) for name in COMPARED} for record in run.finish().steps]


def rank_main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    group = torch.distributed.group.WORLD
    torch.manual_seed(1)
    previous, current = torch.randn(2, 1, FRAMES * TOKENS, 8)
    mine = slice(rank * FRAMES * TOKENS // RANKS, (rank + 1) * FRAMES * TOKENS // RANKS)
    found = {
        "steps": decisions(rank, RANKS, group),
        "distance": residual_distance(previous[:, mine], current[:, mine], group).item(),
        "motion_score": motion_score(current[:, mine], FRAMES, (1, 2), group),
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()  # a rank that leaves before the other is done may abort it
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_split_tokens_give_the_decisions_of_one_process() -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(rank_main, (folder,), nprocs=RANKS)
        ranks = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(RANKS)]
    whole = decisions(0, 1, None)
    alone = decisions(1, RANKS, None)
    assert ranks[0] == ranks[1]
    for step, expected in zip(ranks[0]["steps"], whole, strict=True):
        for name, value in expected.items():
            assert step[name] == (None if value is None else pytest.approx(value, rel=1e-6)), name
    assert not all(record["computed"] for record in whole)
    assert any(abs((a["distance"] or 0) - (b["distance"] or 0)) > 1e-3 for a, b in zip(alone, whole, strict=True)), (
        "a rank on its own must measure something else, or this test shows nothing"
    )
    torch.manual_seed(1)
    previous, current = torch.randn(2, 1, FRAMES * TOKENS, 8)
    assert ranks[0]["distance"] == pytest.approx(residual_distance(previous, current).item(), rel=1e-6)
    assert ranks[0]["motion_score"] == pytest.approx(motion_score(current, FRAMES, (1, 2)), rel=1e-6)
