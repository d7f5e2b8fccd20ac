"""Many seeds on several machines, as ComfyUI-Distributed spreads them: one workflow, other seeds, a server each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_server import prompt, report, samples

from demo.comfyui import ComfyServer

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("demo_weights")]
SEEDS = (5, 6)


def test_each_server_has_statistics_of_its_own_and_no_seed_knows_of_another(server, comfyui_path):
    with ComfyServer(comfyui_path) as second, ThreadPoolExecutor() as both:
        servers = (server, second)
        prompts = [prompt({"preset": "balanced"}, seed=seed) for seed in SEEDS]
        made = list(both.map(lambda at: servers[at].run(prompts[at]), range(2)))
        videos = [samples(*pair) for pair in zip(servers, made, strict=True)]
        # The same seeds on the other machine.
        swapped = [samples(servers[1 - at], servers[1 - at].run(prompts[at])) for at in range(2)]
    assert not torch.equal(*videos)
    assert all(torch.equal(one, other) for one, other in zip(videos, swapped, strict=True))
    one, two = map(report, made)
    assert len(one["runs"]) == len(two["runs"]) == 1
    misses = [[step["miss"] for step in shown["runs"][0]["steps"]] for shown in (one, two)]
    kinds = [[step["kind"] for step in shown["runs"][0]["steps"]] for shown in (one, two)]
    assert kinds[0] == kinds[1], "one plan"
    assert misses[0] != misses[1], "of another video"
