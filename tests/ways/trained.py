"""Ways of sampling on the trained demo model, each against the uncached run of the same graph.

Trained, since what random weights make of noise is too smooth to tell a good forecast from a bad one. ComfyUI must be
importable (fixture ``pack``) by the time a function is called.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import tiny_wan
import torch
from tiny_wan import bind, run_guider, runs, shadows, sigmas
from torch import Tensor

import demo.scenes  # noqa: F401  puts scene_embedding on the path

STEPS = 20
CFG = 3.0
SHAPE = (1, 16, 3, 12, 12)
Graph = Callable[[Any], Any]


@cache
def prompt(**scene: str) -> list[list[Any]]:
    """The embedding of a scene, as the demo's node gives it; shared, so that no graph may write into it."""
    from scene_embedding import embed_scene

    usual = {"motion": "slow", "camera": "static", "background": "plain", "objects": "1", "color": "red"}
    return [[embed_scene({**usual, "shape": "circle", **scene}), {}]]


@cache
def empty() -> list[list[Any]]:
    """The negative prompt."""
    from scene_embedding import embed_empty

    return [[embed_empty(), {}]]


def noise(seed: int = 1, shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Latent noise."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@cache
def known() -> Tensor:
    """A latent as an encoded video would be: of another seed, blurred over frames and places."""
    return torch.nn.functional.avg_pool3d(noise(9), 3, stride=1, padding=1) * 3


def sample(model: Any, **choices: Any) -> Tensor:
    """``tiny_wan.sample`` with a scene and 20 steps."""
    usual = {"noise": noise(choices.get("seed", 1)), "steps": STEPS, "positive": prompt(), "negative": empty()}
    return tiny_wan.sample(model, **{**usual, "cfg": CFG, **choices})


def sampling(**choices: Any) -> Graph:
    """A graph of one KSampler."""
    return lambda model: sample(model, **choices)


def custom(make_guider: Graph, sampler: Any = "euler", make_sigmas: Graph | None = None) -> Graph:
    """A graph of SamplerCustomAdvanced, with a guider and a schedule of a model."""
    levels = make_sigmas or (lambda model: sigmas(model, STEPS))
    return lambda model: run_guider(make_guider(model), levels(model), sampler, SHAPE)


def cfg_guider(model: Any, cfg: float = CFG) -> Any:
    """What the node CFGGuider gives."""
    return tiny_wan.cfg_guider(model, cfg, prompt(), empty())


def decibels(made: Tensor, reference: Tensor) -> float:
    """Signal-to-error: the reference's power over the difference's."""
    error = float((made - reference).double().square().sum())
    return math.inf if error == 0 else 10 * math.log10(float(reference.double().square().sum()) / error)


@dataclass
class Call:
    """A call of the model: the evaluation it belongs to, the conditions in it, how often each of its modules ran."""

    evaluation: int
    conditions: int
    modules: Counter[str] = field(default_factory=Counter)


@dataclass
class Calls:
    """Everything that ran of a model."""

    made: list[Call] = field(default_factory=list)
    outside: Counter[str] = field(default_factory=Counter)
    levels: list[float] = field(default_factory=list)

    @property
    def per_evaluation(self) -> list[int]:
        """Conditions in the calls of each evaluation of the model; a batch of latents counts as so many."""
        counts = Counter[int]()
        for call in self.made:
            counts[call.evaluation] += call.conditions
        return [counts[evaluation] for evaluation in range(len(self.levels))]

    @property
    def kinds(self) -> set[frozenset[tuple[str, int]]]:
        """The different things that a call did."""
        return {frozenset(call.modules.items()) for call in self.made}

    def note(self, executor: Any, x: Tensor, timestep: Tensor, *args: Any) -> Tensor:
        """A PREDICT_NOISE wrapper: evaluations, by their noise level."""
        self.levels.append(float(timestep.flatten()[0]))
        prediction: Tensor = executor(x, timestep, *args)
        return prediction


@contextmanager
def calls_of(model: Any) -> Iterator[Calls]:
    """What runs of a model; with ``watched`` also of which evaluation."""
    calls, inside, hooks = Calls(), [], []

    def begin(module: Any, args: tuple[Any, ...]) -> None:
        latent = args[0][0] if isinstance(args[0], list) else args[0]
        calls.made.append(Call(len(calls.levels) - 1, len(latent)))
        inside.append(True)

    def end(module: Any, args: Any, output: Any) -> None:
        inside.pop()

    def part(name: str) -> Callable[..., None]:
        return lambda module, args: (calls.made[-1].modules if inside else calls.outside).update([name])

    (_, root), *parts = model.model.diffusion_model.named_modules()
    hooks += [root.register_forward_pre_hook(begin), root.register_forward_hook(end, always_call=True)]
    hooks += [module.register_forward_pre_hook(part(name)) for name, module in parts]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def noting(model: Any, calls: Calls) -> Any:
    """A clone of the model that notes its evaluations."""
    model = model.clone()
    model.add_wrapper_with_key("predict_noise", "test", calls.note)
    return model


@dataclass(frozen=True)
class Compared:
    """A graph sampled without a cache and with one.

    Attributes:
        reference, made: what it gave.
        uncached, ran: what of the model ran for it.
        runs: statistics of the cached runs.
    """

    reference: Any
    made: Any
    uncached: Calls
    ran: Calls
    runs: list[Any]

    @property
    def decibels(self) -> float:
        """Signal-to-error of what was made."""
        return decibels(self.made, self.reference)

    @property
    def run(self) -> Any:
        """The one run."""
        [run] = self.runs
        return run


def compare(model: Any, graph: Graph, preset: str = "balanced", **settings: Any) -> Compared:
    """Sample a graph without a cache and with one, and check what must hold whatever the graph is.

    Every evaluation asks for what the uncached one asks for; a skipped one runs no module of the model; nothing is
    replaced; randomness that others draw later is the same.
    """
    with calls_of(model) as uncached:
        torch.manual_seed(11)
        reference = graph(noting(model, uncached))
        drawn = torch.rand(1)
    with calls_of(model) as ran:
        patched, log = bind(noting(model, ran), preset, **settings)
        torch.manual_seed(11)
        made = graph(patched)
        assert torch.equal(torch.rand(1), drawn), "the random state is not what the uncached run leaves"
    assert shadows(model.model.diffusion_model) == []
    compared = Compared(reference, made, uncached, ran, runs(log))
    check_records(compared)
    return compared


def check_records(compared: Compared) -> None:
    """The records tell what ran, evaluation by evaluation; a call runs as a whole or not at all."""
    for run in compared.runs:
        assert run.finished
        assert [record.step for record in run.steps] == list(range(run.total_steps))
    records = [record for run in compared.runs for record in run.steps]
    asked, ran = compared.uncached.per_evaluation, compared.ran.per_evaluation
    assert len(records) == len(asked) == len(ran)
    for record, uncached, count in zip(records, asked, ran, strict=True):
        assert (record.kind == "computed") == (record.computed_calls > 0) == (count > 0)
        if record.computed_calls == record.calls:
            assert count == uncached
        else:
            assert 0 <= count < uncached
    assert compared.ran.kinds <= compared.uncached.kinds
    assert compared.ran.outside == compared.uncached.outside
