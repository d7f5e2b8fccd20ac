"""TorchCompileModel beside AdaCache: what is compiled stays compiled, over steps and over prompts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch._dynamo
from test_sampling import sample
from tiny_wan import bind

STEPS, COMPUTED = 12, 6
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _fresh_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def whole_graphs(wan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention that ComfyUI uses on GPUs; the one for CPUs asks for the free memory, which breaks every graph."""
    import comfy.ldm.wan.model
    from comfy.ldm.modules.attention import attention_pytorch

    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention_pytorch)


def compiled(model, backend):
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    model = model.clone(disable_dynamic=True)
    # As the TorchCompileModel node does it, which offers no backend that counts.
    set_torch_compile_wrapper(model, backend, options={"guard_filter_fn": skip_torch_compile_dict})
    return model


@pytest.mark.parametrize("order", ["AdaCache first", "TorchCompileModel first"])
@pytest.mark.usefixtures("whole_graphs")
def test_nothing_is_compiled_anew_after_the_first_prompt(wan, order):
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    if order == "AdaCache first":
        cached, log = bind(wan)
        model = compiled(cached, counting)
    else:
        model, log = bind(compiled(wan, counting))
    counts, samples = [], []
    for _ in range(3):
        samples.append(sample(model, steps=STEPS))
        counts.append(len(graphs))
    assert counts[0] > 0, "nothing was compiled"
    assert counts == counts[:1] * 3
    # The model's graphs are those of the model without a cache.
    largest = max(graphs, key=lambda graph: len(graph.graph.nodes))
    plain = []

    def counting_plain(graph, inputs):
        plain.append(graph)
        return graph.forward

    torch._dynamo.reset()
    expected = sample(compiled(wan, counting_plain), steps=2)
    assert expected.isfinite().all()
    attentions = [
        sum("scaled_dot_product_attention" in str(node.target) for node in graph.graph.nodes)
        for graph in (largest, max(plain, key=lambda graph: len(graph.graph.nodes)))
    ]
    assert attentions[0] == attentions[1] > 0, "the cache splits the blocks into smaller graphs"
    assert counts[0] == len(plain)
    eager = sample(bind(wan)[0], steps=STEPS)
    torch.testing.assert_close(samples[2], eager, rtol=TOLERANCE, atol=TOLERANCE)
    assert [run.statistics.count("computed") for run in log.of_prompt(None)] == [COMPUTED] * 3


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor's own imports
def test_inductor_compiles_once_and_the_steps_are_still_skipped(wan, monkeypatch, tmp_path):
    from comfy_extras.nodes_torch_compile import TorchCompileModel
    from torch._dynamo.utils import counters

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # In this process: inductor's pool of compilers can wait for ever in a process of pytest-xdist.
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)
    counters.clear()
    patched, log = bind(wan)
    model = TorchCompileModel.execute(patched, "inductor").args[0]
    first = sample(model, steps=STEPS)
    compilations = counters["stats"]["unique_graphs"]
    assert compilations > 0
    second = sample(model, steps=STEPS)
    assert counters["stats"]["unique_graphs"] == compilations
    assert torch.equal(first, second)
    torch.testing.assert_close(second, sample(bind(wan)[0], steps=STEPS), rtol=TOLERANCE, atol=TOLERANCE)
    assert [run.statistics.count("computed") for run in log.of_prompt(None)] == [COMPUTED] * 2
