"""What a sampler makes of its predictions, found by running it on a few numbers.

Samplers are linear in what the model predicts. So a run of the sampler itself, on a tensor with a number a row and with
a stand-in for the model, tells for every sampler, also for one that came out yesterday: when it calls the model, how an
error of one prediction reaches its state, and whether it adds noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Model = Callable[[Tensor, Tensor], Tensor]  # state [rows, ...] and sigma [rows or 1] -> denoised, same shape
Sample = Callable[[Model, int], Tensor]  # samples that many rows of one number each, all starting alike

# On how many calls after a compute a correction is judged.
REACH = 4
_SAME = 1e-4  # relative
_SEED = 0x5EED


@dataclass(frozen=True)
class Response:
    """How a sampler uses the model.

    Attributes:
        sigmas: noise level of every call, in the order in which they are made.
        weights: change of the state at a call (row; the last one is the result) by a change of an earlier call's
            prediction (column), float64 ``[calls + 1, calls]``.
        adds_noise: whether it draws random numbers on its way.
        looks_past: whether it looks past guidance, at the conditions' own predictions (CFG++).
    """

    sigmas: tuple[float, ...]
    weights: Tensor
    adds_noise: bool
    looks_past: bool = False

    @property
    def straight(self) -> bool:
        """Whether forecasts are better lines: what bends is noise, or counts more often than guidance tells."""
        return self.adds_noise or self.looks_past

    def influences(self, scales: Callable[[float], tuple[float, float]]) -> list[float]:
        """The largest change of the state at any later call by a change of each call's prediction.

        With states scaled as a flow model's, so that they compare; 0 for the last call.
        """
        scale = torch.tensor([1 / sum(scales(sigma)) for sigma in self.sigmas], dtype=torch.float64)
        largest: list[float] = (self.weights[:-1].abs() * scale[:, None]).amax(0).tolist()
        return largest

    def errors(self, calls: Sequence[int], sizes: Sequence[float], call: int) -> list[float]:
        """What errors of some calls' predictions make of the state at a call and at the ``REACH`` calls behind it."""
        last = len(self.weights) - 1
        states = [min(call + ahead, last) for ahead in range(REACH + 1)]
        found: list[float] = (self.weights[states][:, calls] @ torch.tensor(sizes, dtype=torch.float64)).tolist()
        return found

    def renews(self, scales: Callable[[float], tuple[float, float]]) -> bool:
        """Whether each state is made of the last prediction and new noise alone (LCM): nothing averages errors out."""
        signals = torch.tensor([scales(sigma)[0] for sigma in self.sigmas[1:]], dtype=torch.float64)
        return self.adds_noise and bool((self.weights.diagonal(-1)[:-1] >= 0.99 * signals).all())


class CannotAskError(Exception):
    """The sampler does not tell how it uses the model; the message says why, as the end of a sentence."""


def ask(sample: Sample, follow: Callable[[float], float], steps: int) -> Response:
    """Run a sampler twice on a few numbers, a row for each call: as it is, and with that call's prediction changed.

    Args:
        sample: runs the sampler, drawing from the global random generator as it is.
        follow: how the stand-in's prediction follows the state, ``d denoised / d x`` at a sigma; see ``following``.
        steps: of the schedule, as a first guess of the number of calls.

    Raises:
        CannotAskError: it fails on a few numbers, or chooses its steps by what the model says.
    """
    with torch.random.fork_rng(devices=[]):
        rows = 3 * steps + 1
        plain = _Recorder(follow).run(sample, rows)
        calls = len(plain.sigmas)
        if not calls:
            raise CannotAskError("it did not call the model")
        if calls > rows:
            rows = calls
            plain = _Recorder(follow).run(sample, rows)
        changed = _Recorder(follow, changes=calls).run(sample, rows)
    if plain.sigmas != changed.sigmas:
        raise CannotAskError("it chooses its steps by what the model predicts")
    before, after = torch.stack(plain.states), torch.stack(changed.states)  # [calls + 1, rows]
    # All rows start alike: what parts them is noise.
    noise = not torch.allclose(before, before[:, :1], rtol=_SAME, atol=_SAME)
    return Response(tuple(plain.sigmas), (after - before)[:, :calls], noise)


class _Recorder:
    """A model of one number: notes when it is called and with which state; changes one call's answer in each row."""

    def __init__(self, follow: Callable[[float], float], changes: int = 0) -> None:
        self._follow = follow
        self._changes = changes
        self.sigmas: list[float] = []
        self.states: list[Tensor] = []

    def run(self, sample: Sample, rows: int) -> _Recorder:
        """Sample; the result is the last one of the states then."""
        torch.manual_seed(_SEED)
        try:
            result = sample(self, rows)
        except Exception as error:  # a sampler of another pack may want anything of its model or latent
            raise CannotAskError(f"it fails on a few numbers ({type(error).__name__}: {error})") from error
        self.states.append(result.double().reshape(rows))
        return self

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        level, call = float(sigma.flatten()[0]), len(self.sigmas)
        self.sigmas.append(level)
        self.states.append(x.double().reshape(len(x)))
        answer = x * self._follow(level)
        if call < self._changes:
            answer[call] += 1
        return answer


def following(signal: float, noise: float) -> float:
    """How a prediction follows the state along the errors that forecasts make, ``d denoised / d x``.

    A half, for the latent ``(signal * data + noise * epsilon) / (signal + noise)`` of a flow model. Measured on two
    models (0.45 to 0.65 below flow time 0.75), see benchmarks/README.md; an exact value matters only at the end.
    """
    return 0.5 / (signal + noise)
