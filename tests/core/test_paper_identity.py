"""The identity of the design: one residual for the whole stack replays what the paper's two per block replay."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adacache_core import RunStatistics, Steps
from adacache_core.inside.layout import Blocks, Layout, Stream
from adacache_core.paper.codebook import Codebook
from adacache_core.paper.rule import CodebookRule
from adacache_core.paper.run import ResidualRun


class Block(nn.Module):
    """A transformer block with gated attention and MLP, cacheable per residual as in the paper (Eq. 1 and 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.gates = nn.Parameter(torch.tensor([0.7, 1.3]))
        self.replay = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.replay:
            h = self.norm1(x)
            self.attention_residual = self.gates[0] * self.attention(h, h, h, need_weights=False)[0]
        x = x + self.attention_residual
        if not self.replay:
            self.mlp_residual = self.gates[1] * self.mlp(self.norm2(x))
        return x + self.mlp_residual


class Transformer(nn.Module):
    def __init__(self, width: int = 16, depth: int = 5) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


@torch.no_grad()
def test_whole_stack_residual_equals_per_block_residuals():
    torch.manual_seed(0)
    model = Transformer()
    layout = Layout("test", "test", (Blocks("blocks"),), (Stream("head"),))
    total, computed = 12, {0, 1, 4, 7, 10, 11}  # rate 3, and the forced ends
    sigmas = [1 - step / total for step in range(total + 1)]
    run = ResidualRun(
        lambda: CodebookRule(Codebook(((1e9, 3),), total), total),
        Steps(tuple(sigmas), lambda sigma: (1 - sigma, sigma)),
        RunStatistics({}, total),
    )
    latent = {"whole": torch.randn(2, 9, 4)}
    latent["per block"] = latent["whole"].clone()
    for step in range(total):
        with run.call(model, layout, sigmas[step], ("a", "b")):
            latent["whole"] = latent["whole"] - model(latent["whole"]) / total
        for block in model.blocks:
            block.replay = step not in computed
        reference = model(latent["per block"])
        latent["per block"] = latent["per block"] - reference / total
        for block in model.blocks:
            block.replay = False
        torch.testing.assert_close(latent["whole"], latent["per block"], rtol=1e-5, atol=1e-5)
    assert {record.step for record in run.finish().steps if record.kind == "computed"} == computed
