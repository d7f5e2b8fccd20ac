"""Workflows to prompts, on graphs small enough to convert by hand."""

from __future__ import annotations

import json

import pytest

from demo.comfyui import REPOSITORY
from demo.workflow import (
    BYPASSED,
    MUTED,
    WorkflowError,
    nodes_of_type,
    to_prompt,
    with_mode,
    with_widget,
)


def schema(required, outputs=(), optional=None):
    return {
        "input": {"required": required, "optional": optional or {}},
        "output": list(outputs),
        "display_name": "Shown",
    }


SCHEMAS = {
    "Load": schema({"name": [["a.safetensors", "b.safetensors"]]}, ["MODEL"]),
    "Patch": schema({"model": ["MODEL"], "strength": ["FLOAT", {"default": 0.5}]}, ["MODEL", "STATS"]),
    "Sample": schema(
        {
            "model": ["MODEL"],
            "seed": ["INT", {"default": 0, "control_after_generate": True}],
            "steps": ["INT", {"default": 20}],
            "sampler": ["COMBO", {"options": ["euler", "heun"]}],
        },
        ["LATENT"],
        {"note": ["STRING", {"default": "none"}]},
    ),
    "Inspect": schema({"latent": ["LATENT"]}, ["LATENT"], {"stats": ["STATS"]}),
    "Pick": schema({"a": ["LATENT"], "b": ["MODEL"], "c": ["LATENT"]}, ["IMAGE", "MODEL"]),
    "Any": schema({"value": ["*"]}),
    "Save": schema(
        {
            "codec": [
                "COMFY_DYNAMICCOMBO_V3",
                {
                    "options": [
                        {"key": "auto", "inputs": {"required": {}}},
                        {"key": "h264", "inputs": {"required": {"crf": ["FLOAT", {"default": 23.0}]}}},
                    ]
                },
            ],
            "prefix": ["STRING", {"default": "out"}],
        }
    ),
    "Crop": schema({"region": ["BOUNDING_BOX", {"default": {}}]}),
}


def node(node_id, node_type, values=(), inputs=(), outputs=(), mode=0, **others):
    """A node of a workflow file; ``inputs`` are (name, type, link id)."""
    return {
        "id": node_id,
        "type": node_type,
        "mode": mode,
        "inputs": [{"name": name, "type": kind, "link": link} for name, kind, link in inputs],
        "outputs": [{"name": kind, "type": kind} for kind in outputs],
        "widgets_values": list(values) if isinstance(values, tuple) else values,
        **others,
    }


def workflow(*nodes, links=()):
    """``links`` are (id, from node, from slot, to node, to slot, type)."""
    return {"nodes": list(nodes), "links": [list(link) for link in links], "version": 0.4}


def chain(mode=0):
    """Load -> Patch -> Sample -> Inspect, and the statistics of Patch to Inspect."""
    return workflow(
        node(1, "Load", ("a.safetensors",), outputs=["MODEL"]),
        node(2, "Patch", (0.7,), [("model", "MODEL", 1)], ["MODEL", "STATS"], mode),
        node(3, "Sample", (42, "fixed", 30, "heun", "hi"), [("model", "MODEL", 2)], ["LATENT"], title="My sampler"),
        node(4, "Inspect", (), [("latent", "LATENT", 3), ("stats", "STATS", 4)], ["LATENT"]),
        links=[
            (1, 1, 0, 2, 0, "MODEL"),
            (2, 2, 0, 3, 0, "MODEL"),
            (3, 3, 0, 4, 0, "LATENT"),
            (4, 2, 1, 4, 1, "STATS"),
        ],
    )


def inputs(graph, node_id):
    return to_prompt(graph, SCHEMAS)[str(node_id)]["inputs"]


def test_a_plain_graph():
    assert to_prompt(chain(), SCHEMAS) == {
        "1": {"class_type": "Load", "inputs": {"name": "a.safetensors"}, "_meta": {"title": "Shown"}},
        "2": {"class_type": "Patch", "inputs": {"strength": 0.7, "model": ["1", 0]}, "_meta": {"title": "Shown"}},
        "3": {
            "class_type": "Sample",
            # "fixed" belongs to the control after the seed and is no input.
            "inputs": {"seed": 42, "steps": 30, "sampler": "heun", "note": "hi", "model": ["2", 0]},
            "_meta": {"title": "My sampler"},
        },
        "4": {"class_type": "Inspect", "inputs": {"latent": ["3", 0], "stats": ["2", 1]}, "_meta": {"title": "Shown"}},
    }


def test_a_bypassed_node_passes_its_model_on_and_drops_its_statistics():
    prompt = to_prompt(chain(BYPASSED), SCHEMAS)
    assert "2" not in prompt
    assert prompt["3"]["inputs"]["model"] == ["1", 0]
    assert prompt["4"]["inputs"] == {"latent": ["3", 0]}


def test_a_muted_node_passes_nothing_on():
    prompt = to_prompt(chain(MUTED), SCHEMAS)
    assert "2" not in prompt
    assert "model" not in prompt["3"]["inputs"]
    assert prompt["4"]["inputs"] == {"latent": ["3", 0]}


def test_two_bypassed_nodes_in_a_row():
    graph = workflow(
        node(1, "Load", ("a.safetensors",), outputs=["MODEL"]),
        node(2, "Patch", (0.7,), [("model", "MODEL", 1)], ["MODEL", "STATS"], BYPASSED),
        node(3, "Patch", (0.7,), [("model", "MODEL", 2)], ["MODEL", "STATS"], BYPASSED),
        node(4, "Patch", (0.9,), [("model", "MODEL", 3)], ["MODEL", "STATS"]),
        links=[(1, 1, 0, 2, 0, "MODEL"), (2, 2, 0, 3, 0, "MODEL"), (3, 3, 0, 4, 0, "MODEL")],
    )
    assert inputs(graph, 4)["model"] == ["1", 0]


@pytest.mark.parametrize(
    ("output", "kind", "source"),
    [
        (0, "LATENT", ["1", 0]),  # no input fits IMAGE, so the first of the type asked for
        (1, "MODEL", ["2", 0]),  # the input at the same position fits
        (0, "IMAGE", None),
        (0, "*", ["1", 0]),  # anything fits: the input at the same position
    ],
)
def test_which_input_a_bypassed_node_passes_on(output, kind, source):
    graph = workflow(
        node(1, "Inspect", (), [("latent", "LATENT", None)], ["LATENT"]),
        node(2, "Load", ("a.safetensors",), outputs=["MODEL"]),
        node(
            3,
            "Pick",
            (),
            [("a", "LATENT", 1), ("b", "MODEL", 2), ("c", "LATENT", None)],
            ["IMAGE", "MODEL"],
            BYPASSED,
        ),
        node(4, "Any", (), [("value", kind, 3)]),
        links=[(1, 1, 0, 3, 0, "LATENT"), (2, 2, 0, 3, 1, "MODEL"), (3, 3, output, 4, 0, kind)],
    )
    assert inputs(graph, 4) == ({} if source is None else {"value": source})


def test_reroutes_and_notes_leave_no_trace():
    graph = workflow(
        node(1, "Load", ("b.safetensors",), outputs=["MODEL"]),
        node(2, "Reroute", (), [("", "*", 1)], ["MODEL"]),
        node(3, "Reroute", (), [("", "*", 2)], ["MODEL"]),
        node(4, "Patch", (0.7,), [("model", "MODEL", 3)], ["MODEL", "STATS"]),
        node(5, "Note", ("read me",)),
        node(6, "MarkdownNote", ("# read me",)),
        links=[(1, 1, 0, 2, 0, "*"), (2, 2, 0, 3, 0, "*"), (3, 3, 0, 4, 0, "MODEL")],
    )
    prompt = to_prompt(graph, SCHEMAS)
    assert set(prompt) == {"1", "4"}
    assert prompt["4"]["inputs"]["model"] == ["1", 0]


def test_a_widget_turned_into_an_input_takes_the_link_and_keeps_the_others_in_place():
    graph = workflow(
        node(1, "PrimitiveNode", (12, "fixed"), outputs=["INT"]),
        node(2, "Sample", (42, "fixed", 30, "heun", "hi"), [("model", "MODEL", None), ("steps", "INT", 1)], ["LATENT"]),
        node(3, "Any", (), [("value", "*", None)], ["STRING"]),
        node(4, "Sample", (42, "fixed", 30, "heun", "hi"), [("note", "STRING", 2)], ["LATENT"]),
        links=[(1, 1, 0, 2, 1, "INT"), (2, 3, 0, 4, 0, "STRING")],
    )
    assert inputs(graph, 2) == {"seed": 42, "steps": 12, "sampler": "heun", "note": "hi"}
    assert inputs(graph, 4) == {"seed": 42, "steps": 30, "sampler": "heun", "note": ["3", 0]}


def test_widgets_without_a_value_take_the_default():
    graph = workflow(node(1, "Sample", (42,), outputs=["LATENT"]))
    assert inputs(graph, 1) == {"seed": 42, "steps": 20, "sampler": "euler", "note": "none"}


def test_values_by_name_and_values_that_are_lists():
    graph = workflow(node(1, "Sample", {"steps": 7, "seed": 3}), node(2, "Patch", ([1, 2],)))
    assert inputs(graph, 1) == {"seed": 3, "steps": 7}
    assert inputs(graph, 2) == {"strength": {"__value__": [1, 2]}}


def test_the_choice_of_a_dynamic_combo_decides_which_widgets_follow():
    graph = workflow(node(1, "Save", ("auto", "video")), node(2, "Save", ("h264", 18.0, "video")))
    assert inputs(graph, 1) == {"codec": "auto", "prefix": "video"}
    assert inputs(graph, 2) == {"codec": "h264", "codec.crf": 18.0, "prefix": "video"}


def test_changing_a_mode_or_a_widget_leaves_the_original_alone():
    graph = chain()
    before = json.dumps(graph)
    assert "2" not in to_prompt(with_mode(graph, "Patch", BYPASSED), SCHEMAS)
    changed = with_widget(graph, "Sample", "steps", 5, SCHEMAS)
    assert inputs(changed, 3)["steps"] == 5
    assert inputs(changed, 3)["sampler"] == "heun"
    assert json.dumps(graph) == before


def test_setting_a_widget_that_the_file_has_no_value_for():
    graph = workflow(node(1, "Sample", (42,)))
    assert inputs(with_widget(graph, "Sample", "note", "x", SCHEMAS), 1)["note"] == "x"
    assert inputs(with_widget(graph, "Sample", "note", "x", SCHEMAS), 1)["sampler"] == "euler"


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"1": {"class_type": "Load"}}, "It looks like an API prompt already"),
        ({"nodes": [], "links": [], "version": 1}, "format version 1, but only 0.4"),
        (workflow(node(1, "Missing")), r"Missing \(node 1\): the server has no node 'Missing'"),
        (workflow(node(1, "Patch", (), [("model", "MODEL", 9)])), "Link 9 is used by an input but missing"),
        (
            workflow(node(1, "Patch", (), [("model", "MODEL", 9)]), links=[(9, 5, 0, 1, 0, "MODEL")]),
            "Link 9 comes from node 5, which the workflow does not have",
        ),
        (workflow(node(1, "Crop", ({},))), r"Crop \(node 1\): Input 'region' has a BOUNDING_BOX widget"),
        (workflow(node(1, "Save", ("vp9",))), r"Save \(node 1\): codec is 'vp9', but it can be: auto, h264"),
        (
            {**workflow(node(1, "abc-def")), "definitions": {"subgraphs": [{"id": "abc-def"}]}},
            "Subgraphs are not supported",
        ),
        (
            workflow(
                node(1, "Reroute", (), [("", "*", 1)], ["*"]),
                node(2, "Patch", (0.5,), [("model", "MODEL", 2)], ["MODEL"]),
                links=[(1, 1, 0, 1, 0, "*"), (2, 1, 0, 2, 0, "MODEL")],
            ),
            "run in a circle",
        ),
    ],
)
def test_what_cannot_be_converted_is_refused(graph, message):
    with pytest.raises(WorkflowError, match=message):
        to_prompt(graph, SCHEMAS)


def test_asking_for_a_node_or_widget_that_is_not_there():
    with pytest.raises(WorkflowError, match=r"has no Crop node\. It has: Inspect, Load, Patch, Sample"):
        nodes_of_type(chain(), "Crop")
    with pytest.raises(WorkflowError, match=r"has no widget 'stepz'\. Its widgets: seed, steps, sampler, note"):
        with_widget(chain(), "Sample", "stepz", 1, SCHEMAS)


SHIPPED = sorted((REPOSITORY / "workflows").glob("*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_links_of_shipped_workflows_agree_on_both_ends(path):
    graph = json.loads(path.read_text())
    nodes = {item["id"]: item for item in graph["nodes"]}
    for link_id, origin, output, target, slot, kind in graph["links"]:
        assert link_id in nodes[origin]["outputs"][output]["links"]
        assert nodes[origin]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][slot]["link"] == link_id
    used = {entry["link"] for item in graph["nodes"] for entry in item["inputs"]} - {None}
    assert used == {link[0] for link in graph["links"]}
    assert graph["last_node_id"] == max(nodes)
    assert graph["last_link_id"] == max(link[0] for link in graph["links"])


def test_the_demo_workflow_says_what_it_means(server):
    """Values in a workflow file go by position, so a new widget in a node could silently shift them."""
    graph = json.loads((REPOSITORY / "workflows" / "AdaCache Demo Without a GPU.json").read_text())
    prompt = to_prompt(graph, server.object_info())
    by_type = {item["class_type"]: item["inputs"] for item in prompt.values()}
    assert by_type["AdaCache"].items() >= {"preset": "balanced", "moreg": False}.items()
    sampler = {"steps": 30, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    assert by_type["KSampler"].items() >= sampler.items()
    size = {"width": 128, "height": 128, "length": 33, "batch_size": 1}
    assert by_type["EmptyHunyuanLatentVideo"] == size
    assert by_type["ModelSamplingSD3"]["shift"] == 3.0
    assert by_type["CreateVideo"]["fps"] == 16.0
