"""The inspector proves what it says: against a reference, beside the last results, and by its buttons."""

from __future__ import annotations

import json

import pytest
from browser import open_front_end
from test_truth_browser import DECODING, WORKFLOW, change, queue

pytestmark = [pytest.mark.long, pytest.mark.server, pytest.mark.usefixtures("demo_weights")]

# A second sampler beside the first one, with the model as it is without AdaCache.
A_REFERENCE = """
    const twin = sampler.clone()
    app.graph.add(twin)
    twin.pos = [sampler.pos[0], sampler.pos[1] + 1200]
    sampler.inputs.forEach((one, at) => {
        if (one.link) sampler.getInputNode(at).connect(app.graph.getLink(one.link).origin_slot, twin, at)
    })
    wire(model, 'MODEL', twin, 'model')
    twin.connect(0, inspector, input(inspector, 'reference'))
"""


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_against_a_reference_faster_and_closer(chromium, server, vue):
    palette = {"Comfy__ColorPalette": "light"} if vue else {}
    with open_front_end(chromium, server, (1500, 1200), Comfy__VueNodes__Enabled=vue, **palette) as front_end:
        front_end.open_workflow(WORKFLOW, seed=300 + vue, steps=16)
        change(front_end, DECODING + ".forEach((node) => app.graph.remove(node))" + A_REFERENCE)
        front_end.look_at_inspector()
        found, output = {}, front_end.inspector.locator("output")
        presets = ["balanced", "fast", "quality"]
        for preset, buttons in zip(presets, (["Faster"], ["Faster", "Closer", "Closer"], ["Closer"]), strict=True):
            said = queue(front_end)
            report = front_end.report()
            db = report["reference"]["signal_to_error_db"]
            assert front_end.numbers()[3:] == [preset, f"{db:.1f} dB"]
            assert said[0].startswith(f"{db:.1f} dB against the reference: ")
            found[preset] = db
            told = []
            for button in buttons:
                front_end.inspector.get_by_role("button", name=button).click()
                told.append(output.inner_text())
            if preset == "balanced":
                assert told == ["Preset fast: queue to see it"]
            else:
                assert told[0] == f"{preset} is as far as the presets go"
        assert found["fast"] < found["balanced"] < found["quality"]
        front_end.page.locator(".adacache-session summary").click()
        front_end.look_at_inspector()  # it has become higher
        rows = [row.split("\t") for row in front_end.page.locator(".adacache-session tr").all_inner_texts()]
        assert rows[0] == ["preset", "steps computed", "sampling time", "against reference"]
        assert [(row[0], row[3]) for row in rows[-3:]] == [(name, f"{found[name]:.1f} dB") for name in presets]
        assert json.loads(front_end.copied())["reference"] == report["reference"]
        assert front_end.saved()[1].splitlines()[1].endswith(f",{db}")
        assert front_end.misplaced() == []
        front_end.screenshot(f"proof-{'vue-light' if vue else 'canvas-dark'}")


def test_a_reference_that_is_none(chromium, server):
    with open_front_end(chromium, server) as front_end:
        front_end.open_workflow(WORKFLOW, seed=310, steps=8)
        change(front_end, DECODING + ".forEach((node) => app.graph.remove(node))" + A_REFERENCE)
        change(front_end, "wire(cache, 'MODEL', app.graph.nodes.findLast((n) => n.type === 'KSampler'), 'model')")
        cached = "The latent cannot be compared with the reference: that was sampled with AdaCache, too."
        assert queue(front_end)[0] == cached
        change(front_end, "wire(latent, 'LATENT', inspector, 'reference')")
        assert "of the signal" in queue(front_end)[0] or front_end.numbers()[-1] == "-"
