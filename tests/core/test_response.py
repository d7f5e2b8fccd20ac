"""What a sampler says of itself, against what its formula says."""

from __future__ import annotations

import itertools

import pytest
import torch

from adacache_core import CannotAskError, Steps, following

from .solvers import adaptive, ancestral, asked, euler, flow_steps, heun

STEPS = flow_steps(8)


@pytest.mark.parametrize("follow", [0.0, 1.0])
def test_euler(follow):
    """An error of a prediction comes in with 1 - s'/s; then it decays by s'/s a step, or stays where one follows."""
    response = asked(euler, STEPS, follow)
    sigmas = STEPS.sigmas
    assert response.sigmas == sigmas[:-1] and not response.adds_noise
    for call in range(8):
        for later in range(9):
            expected = 0.0
            if later > call:
                expected = 1 - sigmas[call + 1] / sigmas[call]
                expected *= 1 if follow else sigmas[later] / sigmas[call + 1]
            assert response.weights[later, call].item() == pytest.approx(expected, abs=1e-12)


def test_heun_asks_twice_a_step():
    response = asked(heun, STEPS)
    sigmas = STEPS.sigmas
    first = [sigmas[0], sigmas[1], sigmas[1], sigmas[2]]
    assert list(response.sigmas[:4]) == first and len(response.sigmas) == 16  # it does not end at noise level 0
    # The second slope counts half, and its prediction is made at the next noise level.
    assert response.weights[2, 1].item() == pytest.approx((sigmas[0] - sigmas[1]) / sigmas[1] / 2, rel=1e-9)


def test_a_multistep_sampler_uses_a_prediction_twice():
    def dpmpp_2m(model, x, sigmas):
        """DPM-Solver++(2M) of a variance-exploding model, as in k-diffusion."""
        old = None
        t = [-torch.tensor(s, dtype=torch.float64).log() for s in sigmas[:-1]]
        for i in range(len(sigmas) - 2):
            denoised = model(x, sigmas[i])
            h = t[i + 1] - t[i]
            used = denoised
            if old is not None:
                r = (t[i] - t[i - 1]) / h
                used = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * old
            x = sigmas[i + 1] / sigmas[i] * x - (-h).expm1() * used
            old = denoised
        return x

    response = asked(dpmpp_2m, STEPS)
    s = STEPS.sigmas
    h = [torch.log(torch.tensor(s[i] / s[i + 1], dtype=torch.float64)).item() for i in range(6)]
    # Of call 1 into the state at call 3: its own step, decayed, and its part in the next one.
    own = (1 - s[2] / s[1]) * (1 + h[1] / (2 * h[0])) * s[3] / s[2]
    memory = -(1 - s[3] / s[2]) * h[2] / (2 * h[1])
    assert response.weights[3, 1].item() == pytest.approx(own + memory, rel=1e-9)


def test_noise_is_noticed_and_the_random_state_is_left_as_it_was():
    before = torch.get_rng_state()
    assert asked(ancestral, STEPS).adds_noise
    assert torch.equal(torch.get_rng_state(), before)


def test_the_weights_of_a_sampler_that_adds_noise_are_without_it():
    response = asked(ancestral, STEPS)
    assert response.weights[1].tolist() == pytest.approx([1.0] + [0.0] * 7)


def test_a_sampler_that_chooses_its_steps_says_so():
    with pytest.raises(CannotAskError, match="chooses its steps by what the model predicts"):
        asked(adaptive, STEPS, 0.9)


def test_a_sampler_that_fails_says_why():
    def picky(model, x, sigmas):
        raise ValueError("expected 5 dimensions")

    with pytest.raises(CannotAskError, match=r"fails on a few numbers \(ValueError: expected 5 dimensions\)"):
        asked(picky, STEPS)


def test_a_sampler_that_never_asks_the_model():
    with pytest.raises(CannotAskError, match="did not call the model"):
        asked(lambda model, x, sigmas: x, STEPS)


def test_influences_are_those_on_a_flow_models_latent_whatever_the_parameterisation():
    """Euler's (t - t') / t, also where the same latent is scaled up by 1 + sigma (variance-exploding)."""
    exploding = Steps(tuple(s / (1 - s) for s in STEPS.sigmas), lambda sigma: (1.0, sigma))
    expected = [*(1 - after / time for time, after in itertools.pairwise(STEPS.sigmas[:-1])), 0]
    assert asked(euler, STEPS).influences(STEPS.scales) == pytest.approx(expected, rel=1e-9)
    assert asked(euler, exploding).influences(exploding.scales) == pytest.approx(expected, rel=1e-9)


def test_how_a_prediction_follows_is_the_same_in_every_parameterisation():
    assert following(0.3, 0.7) == 0.5 and following(1.0, 0.7 / 0.3) == pytest.approx(0.5 * 0.3)


def test_a_sampler_that_keeps_nothing_of_its_state_is_known():
    """LCM's x' = signal' D + noise' n; Euler ancestral at full strength on one noise level less keeps some."""

    def lcm(model, x, sigmas):
        for sigma, after in itertools.pairwise(sigmas):
            x = (1 - after) * model(x, sigma) + after * torch.randn_like(x)
        return x

    def half(model, x, sigmas):
        for sigma, after in itertools.pairwise(sigmas):
            x = x + (x - model(x, sigma)) / sigma * (after / 2 - sigma) + after / 2 * torch.randn_like(x)
        return x

    assert asked(lcm, STEPS).renews(STEPS.scales)
    assert not asked(half, STEPS).renews(STEPS.scales) and asked(half, STEPS).adds_noise
    assert not asked(euler, STEPS).renews(STEPS.scales)


def test_a_sampler_with_more_calls_than_it_was_thought_to_make():
    def often(model, x, sigmas):
        for sigma, after in itertools.pairwise(sigmas):
            for _ in range(5):
                slope = (x - model(x, sigma)) / sigma
            x = x + slope * (after - sigma)
        return x

    response = asked(often, STEPS)
    assert len(response.sigmas) == 40 and response.weights.shape == (41, 40) and not response.adds_noise
    # Of five calls at a noise level only the last one counts.
    assert response.weights[5, :5].tolist() == [0, 0, 0, 0, pytest.approx(1 - STEPS.sigmas[1] / STEPS.sigmas[0])]
