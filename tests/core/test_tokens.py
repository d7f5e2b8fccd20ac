"""Token refresh on blocks that can be computed by hand: chosen tokens are recomputed, the others replayed."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from adacache_core import ConfigurationError, RunStatistics, Steps
from adacache_core.inside.layout import Blocks, Layout, Stream, Sublayers
from adacache_core.paper.codebook import Codebook
from adacache_core.paper.rule import CodebookRule
from adacache_core.paper.run import ResidualRun
from adacache_core.tokens.choice import (
    CROSS_ATTENTION,
    MLP,
    OPEN_SORA,
    TokenCache,
    TokenRefresh,
    best_of_cells,
    entropy,
    influence,
)
from adacache_core.tokens.partial import TokenSteps, bytes_per_token
from adacache_core.tokens.sublayers import TokenCall, refreshing

from .doubling import Allocating

PARTS = Sublayers(replayed=("attention",), cross_attention=("cross",), mlp=(("mlp", "mlp"),))
STREAMS = (Stream("head"),)


class Scale(nn.Module):
    """``x -> factor x``; notes the shape of every input."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.shapes = factor, []

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return self.factor * x


class Block(nn.Module):
    """``x -> x + gate (2 x)``, then ``x + 3 x``, then ``x + gate (5 x)``: at gate 1, 1 -> 3 -> 12 -> 72."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.cross, self.mlp = Scale(2), Scale(3), Scale(5)

    def forward(self, x: Tensor, gate: float) -> Tensor:
        x = x + gate * self.attention(x)
        x = x + self.cross(x, x)
        return x + gate * self.mlp(x)


class Model(nn.Module):
    def __init__(self, blocks: int = 1) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Identity()

    def forward(self, x: Tensor, gate: float = 1.0) -> Tensor:
        for block in self.blocks:
            x = block(x, gate)
        return self.head(x)


LAYOUT = Layout("parts", "x.Model", (Blocks("blocks", sublayers=PARTS),), STREAMS)
FIRST = TokenRefresh(ratio=0.5, age=1.0)  # of equals the first tokens


def tokens(value: float = 1.0, count: int = 4, batch: int = 1) -> Tensor:
    return torch.full((batch, count, 2), float(value))


def no_grid(text_first: bool):
    return lambda count: None


def calling(cache: TokenCache, step: int, partial: bool, keys=("a",), grid=no_grid) -> TokenCall:
    return TokenCall(cache, keys, step, grid, partial)


def run(model: nn.Module, cache: TokenCache, step: int, x: Tensor, gate: float = 1.0, **call) -> Tensor:
    with refreshing(model, LAYOUT, calling(cache, step, step > 0, **call)):
        return model(x, gate)


def test_chosen_tokens_carry_the_recomputed_value_and_the_others_the_cached_one():
    model, cache = Model(), TokenCache(FIRST)
    assert torch.equal(run(model, cache, 0, tokens(1)), tokens(72))
    output = run(model, cache, 1, tokens(10))
    # Attention: 10 + 2. Chosen: 12 + 3 * 12 = 48, 48 + 5 * 48 = 288. Others: 12 + 9 = 21, 21 + 60 = 81.
    assert output[0, :, 0].tolist() == [288, 288, 81, 81]
    [block] = model.blocks
    assert block.attention.shapes == [(1, 4, 2)]
    assert block.cross.shapes == block.mlp.shapes == [(1, 4, 2), (1, 2, 2)]


def test_a_refreshed_token_stays_refreshed_and_age_makes_the_others_come_next():
    model, cache = Model(), TokenCache(FIRST)
    run(model, cache, 0, tokens(1))
    run(model, cache, 1, tokens(10))
    output = run(model, cache, 2, tokens(0))
    # Attention 0 + 2. Now tokens 2 and 3 are the older ones: 2 + 6 = 8, 8 + 40 = 48. The others: 2 + 36 + 240 = 278.
    assert output[0, :, 0].tolist() == [278, 278, 48, 48]


def test_the_current_modulation_applies_to_what_is_replayed():
    model, cache = Model(), TokenCache(replace(FIRST, cross_attention=0.0, mlp=0.0))
    run(model, cache, 0, tokens(1), gate=1.0)
    # 1 + 0.5 * 2 = 2, 2 + 9 = 11, 11 + 0.5 * 60 = 41
    assert torch.equal(run(model, cache, 1, tokens(1), gate=0.5), tokens(41))
    assert [len(part.shapes) for part in model.blocks[0].children()] == [1, 1, 1]


def test_ratio_one_on_an_unchanged_input_is_bit_identical_to_computing():
    torch.manual_seed(0)
    model, cache = Model(3), TokenCache(TokenRefresh(ratio=1.0))
    x = torch.randn(2, 7, 2)
    computed = run(model, cache, 0, x, keys=("a", "b"))
    assert torch.equal(run(model, cache, 1, x, keys=("a", "b")), computed)
    assert model.blocks[2].mlp.shapes == [(2, 7, 2)] * 2


def test_depth_and_sublayer_factors_give_each_block_its_number_of_tokens():
    settings = TokenRefresh(ratio=0.25, age=1.0, cross_attention=0.5, mlp=2.0, depth=0.5)
    model, cache = Model(3), TokenCache(settings)
    run(model, cache, 0, tokens(1, 16))
    run(model, cache, 1, tokens(1, 16))
    # 16 tokens x 0.25 x (1.5, 1, 0.5) = 6, 4, 2, times the factors
    assert [block.cross.shapes[1][1] for block in model.blocks] == [3, 2, 1]
    assert [block.mlp.shapes[1][1] for block in model.blocks] == [12, 8, 4]
    assert TokenRefresh(ratio=0.9, mlp=2.0).share(MLP, 0.0) == 1
    assert not TokenRefresh(ratio=1.0, depth=0.1).complete
    assert not TokenRefresh(ratio=1.0, cross_attention=0.5).complete
    assert TokenRefresh(ratio=1.0).complete


def test_both_conditions_share_the_choice_in_one_call_and_in_two():
    settings = TokenRefresh(ratio=0.5, age=0.0, random=1.0, cross_attention=0.0)
    together, apart = TokenCache(settings), TokenCache(settings)
    model = Model()
    x = torch.arange(1.0, 3).view(2, 1, 1).expand(2, 8, 2)
    run(model, together, 0, x, keys=("a", "b"))
    expected = run(model, together, 1, 10 * x, keys=("a", "b"))
    for step, factor in ((0, 1), (1, 10)):
        halves = [run(model, apart, step, factor * x[i : i + 1], keys=(key,)) for i, key in enumerate("ab")]
    assert torch.equal(torch.cat(halves), expected)
    # 10 + 2 + 9 = 21, 21 + 5 * 21 = 126 if chosen and 21 + 60 if not; twice as much for the other.
    assert sorted(expected[0, :, 0].tolist()) == [81] * 4 + [126] * 4
    assert torch.equal(2 * expected[0], expected[1])


def chosen(settings: TokenRefresh, step: int = 3, count: int = 64, block: int = 0, sublayer: str = MLP) -> list[int]:
    cache, place = TokenCache(settings), (block, sublayer)
    cache.store(place, ("a",), tokens(0, count), 0)
    found = cache.chosen(place, sublayer, 0.0, tokens(0, count), step, lambda count: None)
    return found.tolist()


def test_random_is_decided_by_seed_step_block_and_sublayer():
    settings = TokenRefresh(ratio=0.25, age=0.0, random=1.0)
    first = chosen(settings)
    assert first == chosen(settings)
    assert first == sorted(set(first)) and len(first) == 16
    others = [chosen(replace(settings, seed=1)), chosen(settings, 4), chosen(settings, block=1)]
    others.append(chosen(settings, sublayer=CROSS_ATTENTION))
    assert all(other != first for other in others)


def test_influence_is_the_column_sum_of_attention():
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    maps = torch.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k) / 2, -1)
    sums = maps.mean(1).sum(1)
    assert torch.allclose(influence(q, k), sums / sums.max(1, keepdim=True).values, atol=1e-6)


def test_entropy_is_that_of_each_query_and_masked_keys_do_not_count(monkeypatch):
    q = torch.tensor([[[[0.0], [math.log(3)]]]])
    k = torch.tensor([[[[0.0], [1.0]]]])
    # Weights (1/2, 1/2) and (1/4, 3/4).
    quarter = (math.log(4) + 3 * math.log(4 / 3)) / 4
    expected = torch.tensor([[1.0, quarter / math.log(2)]])
    assert torch.allclose(entropy(q, k), expected)
    longer = torch.cat((k, torch.full((1, 1, 1, 1), 7.0)), 2)
    for mask in (torch.tensor([True, True, False]), torch.tensor([0, 0, -torch.inf])):
        assert torch.allclose(entropy(q, longer, mask), expected * math.log(2) / math.log(3))
    monkeypatch.setattr("adacache_core.tokens.choice._MAP_ELEMENTS", 1)
    assert torch.allclose(entropy(q, k), expected), "in pieces of one query"


def test_spread_marks_the_best_of_each_cell_also_of_cut_ones():
    scores = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9], [9, 8, 7], [6, 5, 4], [3, 2, 1]])
    marked = best_of_cells(scores.flatten(), (2, 3, 3), 2).view(2, 3, 3)
    assert marked.tolist() == [[[0, 0, 0], [0, 1, 1], [0, 1, 1]], [[1, 0, 1], [0, 0, 0], [1, 0, 1]]]


def test_spread_adds_its_bonus_to_the_videos_tokens_only():
    settings = TokenRefresh(ratio=4 / 17, age=0.0, spread=1.0)
    cache, place = TokenCache(settings), (0, MLP)
    cache.store(place, ("a",), tokens(0, 17), 0)
    layout = replace(LAYOUT, patch=(1, 1, 1))
    found = cache.chosen(
        place, MLP, 0.0, tokens(0, 17), 1, lambda count: layout.video_places((1, 9, 1, 4, 4), {}, True, count)
    )
    # One text token, then 4 x 4; of equals the first of each cell.
    assert found.tolist() == [1, 3, 9, 11]
    assert layout.video_places((1, 9, 1, 4, 5), {}, True, 17) is None, "20 tokens are not in 17"


class Attending(nn.Module):
    """Calls the attention function that it is given, on one head."""

    def forward(self, x: Tensor, context: Tensor, attend) -> Tensor:
        def compute() -> Tensor:
            self.computed += 1
            return torch.zeros_like(x)

        return attend(compute, x[:, None], context[:, None], None)

    computed = 0


class Mapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.cross, self.mlp = Attending(), Attending(), Scale(5)

    def forward(self, x: Tensor, options: dict) -> Tensor:
        x = x + self.attention(x, x, options["attend"])
        x = x + self.cross(x, torch.tensor([[[0.0], [1.0]]]), options["attend"])
        return x + self.mlp(x)


class Outer(Model):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Mapping()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, options={})
        return x


@contextmanager
def installing(arguments, attention):
    arguments["options"]["attend"] = attention
    yield


def test_maps_of_the_computed_step_choose_the_tokens_of_the_partial_ones():
    x = torch.tensor([3.0, 0.0, 5.0, 1.0]).view(1, 4, 1)
    for weights, best in (({"entropy": 1.0}, 1), ({"influence": 1.0}, 2)):
        model, cache = Outer(), TokenCache(TokenRefresh(ratio=0.25, age=0.0, **weights))
        for step in (0, 1):
            call = TokenCall(cache, ("a",), step, no_grid, step > 0, installing)
            with refreshing(model, LAYOUT, call):
                output = model(x * (step + 1))
        computed = torch.tensor([18.0, 0, 30, 6])
        expected = 2 * x.flatten() + 5 * x.flatten()
        expected[best] = 2 * computed[best]
        assert torch.equal(output.flatten(), expected)
        assert model.blocks[0].attention.computed == 1, "self-attention ran at a partial step"


SIGMAS = [1 - step / 10 for step in range(11)]


def token_run(refresh: TokenRefresh, **choices) -> ResidualRun:
    steps = Steps(tuple(SIGMAS), lambda sigma: (1 - sigma, sigma))
    rule = Codebook(((1e9, 2),))
    partial_steps = TokenSteps(refresh, **choices)
    return ResidualRun(lambda: CodebookRule(rule, 10), steps, RunStatistics({}, 10), partial_steps)


def test_a_run_makes_partial_steps_of_skips_and_says_so():
    model, making = Model(), token_run(FIRST)
    for sigma in SIGMAS[:-1]:
        with making.call(model, LAYOUT, sigma, ("a", "b")) as skips:
            assert not skips
            model(tokens(1, batch=2))
    statistics = making.finish()
    # First and last steps compute, and every second one between them.
    partial = [record.step for record in statistics.steps if record.kind == "partial"]
    assert partial == [2, 4, 6]
    assert {statistics.steps[step].reason for step in partial} == {"partial"}
    assert [record.computed_calls for record in statistics.steps] == [2, 2, 0, 2, 0, 2, 0, 2, 2, 2]
    assert [statistics.count(kind) for kind in ("computed", "partial", "skipped")] == [7, 3, 0]
    assert [shape[1] for shape in model.blocks[0].mlp.shapes] == [2 if step in partial else 4 for step in range(10)]
    # Residual and three sublayers of two conditions, 4 x 2 floats each.
    assert statistics.cache_bytes == making.nbytes == 2 * 4 * 32
    making.drop()
    assert making.nbytes == 0


def test_a_run_with_ratio_one_computes_every_step():
    model, making = Model(), token_run(TokenRefresh(ratio=1.0))
    for value, sigma in enumerate(SIGMAS[:-1]):
        with making.call(model, LAYOUT, sigma, ("a",)):
            assert torch.equal(model(tokens(value)), tokens(72 * value))
    statistics = making.finish()
    assert statistics.count("computed") == 10
    assert "every token refreshed" in {record.reason for record in statistics.steps}


def test_going_back_to_an_earlier_noise_level_starts_over():
    model, making = Model(), token_run(TokenRefresh(ratio=0.5, age=0.0, random=1.0))
    outputs = []
    for step in [*range(5), *range(5)]:
        with making.call(model, LAYOUT, SIGMAS[step], ("a",)):
            outputs.append(model(tokens(step + 1, count=8)))
    assert all(torch.equal(first, second) for first, second in zip(outputs[:5], outputs[5:], strict=True))
    assert [record.kind for record in making.finish().steps] == ["computed"] * 2 + (
        ["partial", "computed", "partial"] + ["computed"] * 2 + ["partial", "computed", "partial"]
    )


@pytest.mark.parametrize(("device", "advice"), [(None, "keep it in system memory"), ("cpu", "make the video smaller")])
def test_what_does_not_fit_is_refused_before_the_first_step(device, advice):
    asked = []

    def free_memory(where: torch.device) -> float:
        asked.append(where)
        return 2**30 - 1

    model = Model()
    model.head = nn.Linear(2, 2)
    refresh = replace(FIRST, device=device)
    for needed in (2**30 - 1, 2**30):
        making = token_run(refresh, needed=needed, free_memory=free_memory)
        if needed == 2**30:
            expected = rf"has to keep 1\.00 GiB, and 1\.00 GiB are free on cpu\. What helps: {advice}"
            with pytest.raises(ConfigurationError, match=expected):
                with making.call(model, LAYOUT, 1.0, ("a",)):
                    raise AssertionError("a call that does not fit was let through")
        else:
            for sigma in SIGMAS[:3]:
                with making.call(model, LAYOUT, sigma, ("a",)):
                    model(tokens())
    assert asked == [torch.device("cpu")] * 2, "once in a run"


def test_outputs_are_kept_on_the_chosen_device():
    cache = TokenCache(replace(FIRST, device="meta"))
    cache.store((0, MLP), ("a",), tokens(), 0)
    assert cache.replayed((0, MLP), ("a",), torch.device("meta")).device.type == "meta"
    making = [token_run(replace(FIRST, device=device)) for device in (None, "cpu")]
    for sigma in SIGMAS[:4]:
        outputs = []
        for run_of_device in making:
            model = Model()
            with run_of_device.call(model, LAYOUT, sigma, ("a",)):
                outputs.append(model(tokens(sigma)))
        assert torch.equal(*outputs)


def test_what_outlives_the_call_is_allocated_where_it_may():
    """Outputs and scores of a full step, and the choice of a partial one."""
    allocating, seen = Allocating(), []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten._to_copy.default, torch.ops.aten.index_fill.int_Scalar):
                seen.append((func, allocating.inside))
            return func(*args, **(kwargs or {}))

    cache, model = TokenCache(FIRST, allocating), Model()
    with Watching():
        run(model, cache, 0, tokens(1))
        run(model, cache, 1, tokens(1))
    assert {func for func, _ in seen} == {torch.ops.aten._to_copy.default, torch.ops.aten.index_fill.int_Scalar}
    assert all(allocated for _, allocated in seen)


def test_forwards_are_restored_after_an_exception():
    model = Model()
    with pytest.raises(RuntimeError), refreshing(model, LAYOUT, calling(TokenCache(FIRST), 0, False)):
        raise RuntimeError
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_bytes_are_those_of_every_kept_output():
    class Wide(Model):
        def __init__(self) -> None:
            super().__init__(2)
            for block in self.blocks:
                block.attention, block.cross = nn.Linear(2, 10), nn.Linear(2, 20)
                block.mlp = nn.Sequential(nn.Linear(2, 99), nn.Linear(99, 30))

    assert bytes_per_token(Wide(), LAYOUT, 2) == 2 * (10 + 20 + 30) * 2


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"ratio": 0.0}, "ratio must be above 0"),
        ({"ratio": 1.1}, "at most 1, got 1.1"),
        ({"age": -1.0}, "age must not be negative"),
        ({"depth": 2.0}, "depth must be within"),
        ({"cell": 0}, "cell must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(choice, message):
    with pytest.raises(ConfigurationError, match=message):
        replace(OPEN_SORA, **choice)
