"""Blocks that double: stack input 1, residual 7 after three blocks; on a skip the head sees exactly input + 7."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from adacache_core import ConfigurationError, ShapeMismatchError, UnsupportedModelError
from adacache_core.inside.attach import computing, shadowed, skipping
from adacache_core.inside.layout import Blocks, Layout, Stream, layout_of

from .doubling import LAYOUT, Allocating, Doubling, DoublingModel, InPlaceDoubling, ones


def keeping(recorded):
    def record(stream, before, after):
        recorded.append((stream, before, after))

    return record


def test_a_computed_call_reports_the_stack_input_and_output():
    model, recorded = DoublingModel(), []
    with computing(model, LAYOUT, keeping(recorded)):
        output = model(ones(1))
    [(stream, before, after)] = recorded
    assert stream == 0
    assert torch.equal(before, ones(1))
    assert torch.equal(after, ones(8))
    assert torch.equal(output, ones(8))


def test_on_a_skip_the_head_sees_the_input_plus_the_residual_and_no_block_runs():
    model = DoublingModel()
    with skipping(model, LAYOUT, lambda stream, before: before + 7):
        output = model(ones(2))
    assert torch.equal(model.head.seen, ones(9))
    assert torch.equal(output, ones(9))
    assert model.block_calls == 0


@pytest.mark.parametrize("mode", ["compute", "skip"])
def test_the_note_survives_blocks_that_work_in_place(mode):
    model, recorded = DoublingModel(InPlaceDoubling), []
    if mode == "compute":
        with computing(model, LAYOUT, keeping(recorded)):
            model(ones(1))
        assert torch.equal(recorded[0][1], ones(1))
    else:
        with skipping(model, LAYOUT, lambda stream, before: before.mul_(100)):
            caller = ones(1)
            model(caller)
        assert torch.equal(caller, ones(1)), "the caller's tensor was changed"


def test_what_is_added_between_blocks_is_not_counted_twice():
    class WithControl(DoublingModel):
        def forward(self, x):
            hidden = x
            for block in self.blocks:
                hidden = block(hidden) + 10
            return self.head(hidden)

    model, recorded = WithControl(), []
    with computing(model, LAYOUT, keeping(recorded)):
        computed = model(ones(1))
    assert torch.equal(computed, ones(78))  # ((1 * 2 + 10) * 2 + 10) * 2 + 10
    residual = recorded[0][2] - recorded[0][1]
    with skipping(model, LAYOUT, lambda stream, before: before + residual):
        assert torch.equal(model(ones(1)), ones(78))


def test_blocks_with_two_streams_return_both_unchanged():
    class Pair(nn.Module):
        def forward(self, img, txt, extra=None):
            raise AssertionError("a skipped block ran")

    class TwoStreams(nn.Module):
        def __init__(self):
            super().__init__()
            self.pairs = nn.ModuleDict({"a": Pair(), "b": Pair()})
            self.norm_out, self.text_out = nn.Identity(), nn.Identity()

        def forward(self, img, txt):
            for block in self.pairs.values():
                img, txt = block(img=img, txt=txt, extra=3)
            return self.norm_out(img), self.text_out(txt)

    layout = Layout(
        "two", "x", (Blocks("pairs", ("img", "txt")),), (Stream("norm_out", "img"), Stream("text_out", "txt"))
    )
    model = TwoStreams()
    with skipping(model, layout, lambda stream, before: before + (10, 20)[stream]):
        img, txt = model(ones(1), ones(2))
    assert torch.equal(img, ones(11))
    assert torch.equal(txt, ones(22))


def test_forwards_are_restored_after_an_exception():
    model = DoublingModel()

    def fail(stream, before):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"), skipping(model, LAYOUT, fail):
        model(ones())
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert torch.equal(model(ones(1)), ones(8))


def test_a_forward_that_somebody_else_placed_is_put_back():
    block = Doubling()
    block.forward = theirs = lambda x: x + 1
    with shadowed({block: lambda x: x}):
        assert block(5) == 5
    assert block.forward is theirs
    assert block(5) == 6


def test_a_bypassed_first_block_is_not_recorded():
    class Bypassing(DoublingModel):
        def forward(self, x):
            return self.head(x)

    recorded = []
    model = Bypassing()
    with computing(model, LAYOUT, keeping(recorded)):
        assert torch.equal(model(ones(3)), ones(3))
    assert recorded == []
    with pytest.raises(ConfigurationError, match="replaced the first block of the model at a step that is skipped"):
        with skipping(model, LAYOUT, lambda stream, before: before):
            model(ones(3))


def test_a_head_that_sees_another_shape_is_refused():
    class Shrinking(DoublingModel):
        def forward(self, x):
            return self.head(self.blocks[0](x)[..., :1])

    model = Shrinking()
    expected = r"\(1, 4, 2\) before the blocks and \(1, 4, 1\) at the head"
    with pytest.raises(ShapeMismatchError, match=expected), computing(model, LAYOUT, keeping([])):
        model(ones())


def test_unknown_and_changed_models_are_refused_by_name():
    layout = Layout("ours", f"{DoublingModel.__module__}.DoublingModel", (Blocks("blocks"),), (Stream("head"),))
    assert layout_of(DoublingModel(), (layout,)) is layout
    with pytest.raises(
        UnsupportedModelError, match=r"torch\.nn\.modules\.linear\.Linear, whose blocks are not known\. Known: ours"
    ):
        layout_of(nn.Linear(1, 1), (layout,))
    moved = Layout("ours", layout.model, (Blocks("blocks"),), (Stream("final_layer"),))
    with pytest.raises(UnsupportedModelError, match="has no 'final_layer'"):
        layout_of(DoublingModel(), (moved,))
    with pytest.raises(UnsupportedModelError, match="no blocks in 'blocks'"):
        layout_of(DoublingModel(count=0), (layout,))


def test_a_skipped_block_leaves_behind_what_its_row_says():
    places = []
    layout = Layout(
        "caching",
        "x",
        (Blocks("blocks", on_skip=lambda arguments, hidden: places.append((arguments, hidden.shape[1]))),),
        (Stream("head"),),
    )
    with skipping(DoublingModel(), layout, lambda stream, before: before):
        DoublingModel()(ones())
    assert not places
    model = DoublingModel()
    with skipping(model, layout, lambda stream, before: before):
        model(ones())
    assert places == [({}, 4)] * 3


@pytest.mark.parametrize(
    "attach",
    [
        lambda *rest: computing(*rest[:2], keeping([]), rest[2]),
        lambda *rest: skipping(*rest[:2], lambda stream, before: before, rest[2]),
    ],
)
def test_what_is_noted_is_allocated_where_it_may_outlive_the_block(attach):
    """The clone of the stack's input is made within the first block's call and read at the head."""
    allocating, seen = Allocating(), []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.clone.default:
                seen.append(allocating.inside)
            return func(*args, **(kwargs or {}))

    model = DoublingModel()
    model.head = nn.Identity()
    with attach(model, LAYOUT, allocating), Watching():
        model(ones())
    assert seen == [True]
