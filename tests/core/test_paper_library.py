"""Models that the paper measured on and a library carries: one residual for all blocks against one per block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.transformers.latte_transformer_3d import LatteTransformer3DModel
from torch import Tensor, nn

from adacache_core import RunStatistics, Steps, UnsupportedModelError
from adacache_core.inside.layout import layout_of
from adacache_core.inside.library import LIBRARY
from adacache_core.paper.codebook import Codebook
from adacache_core.paper.measure import MotionRegularization, motion_score
from adacache_core.paper.rule import CodebookRule
from adacache_core.paper.run import ResidualRun

STEPS, FRAMES, SIZE = 12, 3, 8
EVERY_THIRD = Codebook(((1e9, 3),), STEPS)
SIGMAS = [1 - step / STEPS for step in range(STEPS + 1)]


def weighted(model: nn.Module) -> nn.Module:
    """Seeded weights with which every layer keeps the size of what it is given."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        spread = (weight.shape[0] / weight.numel()) ** 0.5 if weight.ndim > 1 else 0.1
        nn.init.normal_(weight, std=spread, generator=generator)
    return model.eval().requires_grad_(False)


def latte() -> LatteTransformer3DModel:
    return LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        num_layers=3,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=SIZE,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=12,
        video_length=FRAMES,
    )


def dit() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=3, sample_size=SIZE, num_embeds_ada_norm=10
    )


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def latte_call(model: nn.Module, x: Tensor, sigma: float) -> Tensor:
    """Two prompts in one batch."""
    return model(x, torch.tensor([1000 * sigma]).repeat(2), noise(2, 5, 12), return_dict=False)[0]


def dit_call(model: nn.Module, x: Tensor, sigma: float) -> Tensor:
    """Two classes in one batch."""
    return model(x, torch.tensor([int(1000 * sigma)]).repeat(2), torch.tensor([3, 7]), return_dict=False)[0]


CASES = {
    "Latte": (latte, latte_call, (2, 4, FRAMES, SIZE, SIZE), ("transformer_blocks", "temporal_transformer_blocks")),
    "DiT": (dit, dit_call, (2, 4, SIZE, SIZE), ("transformer_blocks",)),
}
cases = pytest.mark.parametrize("name", CASES)


@contextmanager
def cached_by_block(
    model: nn.Module, lists: Sequence[str], kept: dict[nn.Module, Tensor], skip: bool
) -> Iterator[None]:
    """What the paper does: every block keeps what it adds, and adds it again on a skip."""
    blocks = [block for name in lists for block in getattr(model, name)]

    def forward_of(block: nn.Module):
        def forward(x: Tensor, *args, **kwargs) -> Tensor:
            if not skip:
                output = type(block).forward(block, x, *args, **kwargs)
                kept[block] = output - x
                return output
            return x + kept[block]

        return forward

    for block in blocks:
        block.forward = forward_of(block)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


@cases
def test_one_residual_for_all_blocks_equals_one_per_block(name):
    make, call, shape, lists = CASES[name]
    model = weighted(make())
    layout = layout_of(model, LIBRARY)
    assert layout.family == name
    statistics = RunStatistics({}, STEPS)
    steps = Steps(tuple(SIGMAS), lambda sigma: (1 - sigma, sigma))
    run = ResidualRun(lambda: CodebookRule(EVERY_THIRD, STEPS), steps, statistics)
    whole = by_block = uncached = noise(*shape)
    kept: dict[nn.Module, Tensor] = {}
    for sigma in SIGMAS[:-1]:
        with run.call(model, layout, sigma, ("positive", "negative"), shape) as skips:
            whole = whole + call(model, whole, sigma)[:, :4] / STEPS
        with cached_by_block(model, lists, kept, skips):
            by_block = by_block + call(model, by_block, sigma)[:, :4] / STEPS
        uncached = uncached + call(model, uncached, sigma)[:, :4] / STEPS
        torch.testing.assert_close(whole, by_block, rtol=1e-4, atol=1e-4)
    run.finish()
    assert [record.step for record in statistics.steps if record.kind == "computed"] == [0, 1, 4, 7, 10, 11]
    assert (whole - uncached).abs().max() > 1e-3, "this test must be able to notice that something was skipped"
    tokens = (SIZE // 2) ** 2 * (FRAMES if name == "Latte" else 1)
    assert statistics.cache_bytes == 2 * tokens * 16 * 4
    assert not [module for module in model.modules() if "forward" in module.__dict__]


def test_motion_is_measured_between_lattes_frames():
    """What the first block list's input lacks of the head's, by hooks of this test, frames in order."""
    model = weighted(latte())
    layout, shape = layout_of(model, LIBRARY), (1, 4, FRAMES, SIZE, SIZE)
    motion = MotionRegularization(start_percent=0, end_percent=1, scale=1, exponent=1, gradient_multiplier=0)
    steps = Steps(tuple(SIGMAS), lambda sigma: (1 - sigma, sigma))
    rule = CodebookRule(EVERY_THIRD, STEPS, motion)
    run = ResidualRun(lambda: rule, steps, RunStatistics({}, STEPS))
    seen: dict[str, Tensor] = {}
    model.transformer_blocks[0].register_forward_pre_hook(lambda module, args: seen.update(before=args[0].clone()))
    model.norm_out.register_forward_pre_hook(lambda module, args: seen.update(after=args[0].clone()))
    for sigma in SIGMAS[:2]:
        with run.call(model, layout, sigma, ("positive",), shape):
            model(noise(*shape), torch.tensor([1000 * sigma]), noise(1, 5, 12), return_dict=False)
    residual = (seen["after"] - seen["before"]).reshape(1, FRAMES * (SIZE // 2) ** 2, 16)
    assert run.finish().steps[1].paper.motion_score == pytest.approx(motion_score(residual, FRAMES), rel=1e-5)


def test_other_models_are_refused_with_the_rows_there_are():
    with pytest.raises(
        UnsupportedModelError, match=r"Linear, whose blocks are not known\. Known: DiT, Latte, Open-Sora"
    ):
        layout_of(nn.Linear(1, 1), LIBRARY)
