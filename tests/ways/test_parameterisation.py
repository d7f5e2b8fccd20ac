"""The same trained weights in another parameterisation: what is skipped and how well is not a matter of the form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from .trained import SHAPE, cfg_guider, custom, decibels

# Without the level at which there is no signal at all, where a variance-exploding latent would have no end.
FLOW = torch.tensor([3 * s / (1 + 2 * s) for s in ((20 - step - 0.1) / 20 for step in range(20))] + [0.0])


class Exploding(torch.nn.Module):
    """A flow model as a variance-exploding one: x / (1 - t) at sigma = t / (1 - t); a test's own."""

    def __init__(self, flow: Any) -> None:
        super().__init__()
        self.flow = flow
        self.sigma_min, self.sigma_max = torch.tensor(1e-3), torch.tensor(1e3)

    def timestep(self, sigma: Tensor) -> Tensor:
        return self.flow.timestep(sigma / (1 + sigma))

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise / (1 + _wide(sigma, noise))

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        sigma = _wide(sigma, model_input)
        return (model_input - sigma * model_output) / (1 + sigma)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        return latent_image + _wide(sigma, noise) * noise

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent


def _wide(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.view(sigma.shape[:1] + (1,) * (x.ndim - 1))


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_an_exploding_form_of_the_model_is_skipped_as_the_flow_form(trained: Any, sampler: str) -> None:
    """Euler's steps are the same points in both forms; Heun's are not, but are planned on their own calls in both."""
    from tiny_wan import bind, decisions, only_run

    exploding = trained.clone()
    exploding.add_object_patch("model_sampling", Exploding(trained.get_model_object("model_sampling")))
    made = {}
    for name, model, levels in (("flow", trained, FLOW), ("exploding", exploding, FLOW / (1 - FLOW))):
        graph = custom(cfg_guider, sampler, lambda model, levels=levels: levels)
        patched, log = bind(model)
        made[name] = (graph(model), graph(patched), decisions(only_run(log)))
    flow, other = made["flow"], made["exploding"]
    assert other[2] == flow[2] and not all(flow[2])
    assert abs(decibels(other[1], other[0]) - decibels(flow[1], flow[0])) < (0.05 if sampler == "euler" else 3)
    if sampler == "euler":
        assert decibels(other[0], flow[0]) > 60  # the uncached runs are the same one
    assert flow[0].shape == SHAPE


@pytest.mark.parametrize("shift", [1.32, 2.64, 8.06, 100.0])
def test_a_shift_whose_largest_sigma_is_rounded_up_is_still_a_flow_model(trained: Any, shift: float) -> None:
    """In float32 77 of the shifts from 1.00 to 100.00 end above 1; the parameterisation is asked, not the number."""
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3
    from tiny_wan import bind, decisions, only_run

    from .trained import sample

    near = {}
    for value in (shift, shift * 1.001):
        (model,) = ModelSamplingSD3().patch(trained, value)
        patched, log = bind(model)
        near[value] = (decibels(sample(patched), sample(model)), decisions(only_run(log)))
    (decibels_at, decided), (decibels_near, decided_near) = near.values()
    assert decided == decided_near and decibels_at == pytest.approx(decibels_near, abs=1.5)
