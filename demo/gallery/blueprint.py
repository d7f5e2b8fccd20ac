"""The subgraph blueprint: AdaCache and a KSampler as one node, in ComfyUI's node library beside its own."""

from __future__ import annotations

import uuid

from demo.gallery.graph import PACK, Graph
from demo.workflow import Json

NAME = "KSampler with AdaCache"
DESCRIPTION = (
    "KSampler behind AdaCache: skips the steps whose result is known well enough. Connect an AdaCache Inspector."
)
INPUT_NODE, OUTPUT_NODE = -10, -20  # the front end's ids of a subgraph's two ends
# Widgets of the nodes within that the node has: the sampler's first, as in KSampler.
WIDGETS = ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")


def make_blueprint(schemas: Json) -> Json:
    """The file's content: one node, and the subgraph that it stands for."""
    graph = Graph(NAME, schemas)
    graph.column("AdaCache", 300)
    cache = graph.add("AdaCache")
    graph.column("Sampler", 320)
    sampler = graph.add("KSampler", model=cache["MODEL"])
    made = graph.to_json()
    links = [
        {"id": link, "origin_id": source, "origin_slot": output, "target_id": target, "target_slot": slot, "type": kind}
        for link, source, output, target, slot, kind in made["links"]
    ]
    inputs = [
        _end(node, slot, INPUT_NODE, number, links)
        for number, (node, slot) in enumerate(
            [(cache.json, 0), *((sampler.json, slot) for slot in range(1, 4))]  # model; conditions and latent
        )
    ]
    outputs = [
        _end(sampler.json, 0, OUTPUT_NODE, 0, links),
        _end(cache.json, cache.outputs["statistics"], OUTPUT_NODE, 1, links),
    ]
    proxies = [[str(sampler.json["id"]), name] for name in WIDGETS]
    proxies += [[str(cache.json["id"]), name] for name in ("preset", "moreg")]
    subgraph = {
        "id": made["id"],
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": len(made["nodes"]), "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": NAME,
        "description": DESCRIPTION,
        "inputNode": {"id": INPUT_NODE, "bounding": [-180, 80, 120, 120]},
        "outputNode": {"id": OUTPUT_NODE, "bounding": [800, 80, 120, 80]},
        "inputs": inputs,
        "outputs": outputs,
        "widgets": [],
        "nodes": made["nodes"],
        "groups": [],
        "links": links,
        "extra": {"workflowRendererVersion": "LG"},
    }
    node = {
        "id": 1,
        "type": subgraph["id"],
        "pos": [0, 0],
        "size": [320, 360],
        "flags": {},
        "order": 0,
        "mode": 0,
        "title": NAME,
        "inputs": [{"name": end["name"], "type": end["type"], "link": None} for end in inputs],
        "outputs": [{"name": end["name"], "type": end["type"], "links": []} for end in outputs],
        "properties": {"proxyWidgets": proxies, **PACK},
        "widgets_values": [],
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph]},
        "extra": {"BlueprintDescription": DESCRIPTION, "BlueprintSearchAliases": ["adacache", "faster sampler"]},
    }


def _end(node: Json, slot: int, end: int, number: int, links: list[Json]) -> Json:
    """An input or output of the subgraph, and the link that joins it to a slot of a node within."""
    inward = end == INPUT_NODE
    socket, link = node["inputs" if inward else "outputs"][slot], len(links) + 1
    if inward:
        socket["link"] = link
        links.append(
            {"id": link, "origin_id": end, "origin_slot": number, "target_id": node["id"], "target_slot": slot}
        )
    else:
        socket["links"] = [*(socket["links"] or []), link]
        links.append(
            {"id": link, "origin_id": node["id"], "origin_slot": slot, "target_id": end, "target_slot": number}
        )
    links[-1]["type"] = socket["type"]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"adacache/subgraphs/{NAME}/{socket['name']}/{end}")),
        "name": socket["name"],
        "type": socket["type"],
        "linkIds": [link],
        "pos": [-80 if inward else 820, 100 + 20 * number],
    }
