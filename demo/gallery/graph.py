"""A small builder of UI-format workflows (version 0.4): nodes by name, links by output, a layout of columns.

Slots and widgets come from the server's schemas, so a graph has what the front end would write.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from demo.workflow import Json, sockets_of, widgets_of

# The versions that the graphs are made for; a graph says of each node which pack it needs.
CORE = {"cnr_id": "comfy-core", "ver": "0.30.0"}
PACK = {"cnr_id": "adacache", "ver": "0.1.0"}
NOTE_COLOR = {"color": "#432", "bgcolor": "#653"}
PACK_COLOR = {"color": "#232", "bgcolor": "#353"}
MODELS, INPUT, SAMPLING, OUTPUT = "#88A", "#3f789e", "#8A8", "#b58b2a"

GAP, PADDING, TITLE = 64, 20, 76  # between nodes, around them in a group, and for the group's name and first title
FOOT = 56  # below the last node of a group, which may be higher in the other renderer
READABLE = 0.6  # the front end writes no words on nodes that are smaller
VIEW, CORNER = (1480, 720), (80, 110)  # what a graph must fit into when it is opened, right of and below the menus


@dataclass
class Node:
    """A node as it will be written; ``node["model"]`` is the output of that name, to be given to another node."""

    json: Json
    outputs: dict[str, int]

    def __getitem__(self, name: str) -> Output:
        return Output(self, self.outputs[name])


@dataclass(frozen=True)
class Output:
    """One output of a node."""

    node: Node
    slot: int


@dataclass
class _Column:
    title: str
    width: int
    color: str | None
    nodes: list[Node] = field(default_factory=list)


class Graph:
    """A workflow in the making.

    Args:
        name: of the file; the workflow's id is made from it.
        schemas: the server's answer to ``/object_info``.

    Example:
        >>> graph = Graph("two_nodes", schemas)
        >>> graph.column("1. Model", 330)
        >>> loader = graph.add("UNETLoader", unet_name="model.safetensors")
        >>> graph.add("ModelSamplingSD3", model=loader["MODEL"], shift=8.0)
        >>> graph.to_json()
    """

    def __init__(self, name: str, schemas: Json) -> None:
        self._name, self._schemas = name, schemas
        self._columns: list[_Column] = []
        self._links: list[list[Any]] = []
        self._nodes: list[Node] = []

    def column(self, title: str, width: int, color: str | None = None) -> None:
        """Begins a column; nodes go there until the next one. With a colour it becomes a group of that title."""
        self._columns.append(_Column(title, width, color))

    def note(self, title: str, height: int) -> Node:
        """A note in Markdown, whose text may be written later."""
        node = self._place("MarkdownNote", {"title": title, "properties": {}, "widgets_values": [""], **NOTE_COLOR})
        node.json["size"][1] = height
        return node

    @property
    def files(self) -> list[Json]:
        """The model files of all nodes so far, each once."""
        files = [file for node in self._nodes for file in node.json["properties"].get("models", [])]
        return list({file["name"]: file for file in files}.values())

    def holds(self, kind: str) -> bool:
        """Whether there is a node of this type so far."""
        return any(node.json["type"] == kind for node in self._nodes)

    def add(
        self,
        kind: str,
        *,
        title: str | None = None,
        tall: int | None = None,
        files: Iterable[Json] = (),
        **values: Any,
    ) -> Node:
        """A node.

        Args:
            kind: the node's id.
            title: shown in place of the node's own name.
            tall: height of the node, where what its widgets need is too little.
            files: model files that its widgets name: name, url, directory.
            values: by input: the ``Output`` of another node, or the value of a widget; ``bypassed`` bypasses it.

        Raises:
            KeyError: an input or output that the node does not have.
        """
        schema = self._schemas[kind]
        ours = kind.startswith("AdaCache")
        properties: Json = {"Node name for S&R": kind, **(PACK if ours else CORE)}
        if files := list(files):
            properties["models"] = files
        body: Json = {"mode": 4 if values.pop("bypassed", False) else 0, "properties": properties}
        if title:
            body["title"] = title
        node = self._place(kind, {**body, **(PACK_COLOR if ours else {})})
        names = [name for name, _ in widgets_of(schema, values)]
        unknown = values.keys() - set(names) - {name for name, _, _ in sockets_of(schema)}
        if unknown:
            raise KeyError(f"{kind} has no input {', '.join(sorted(unknown))}.")
        node.outputs = {name: slot for slot, name in enumerate(schema["output_name"])}
        node.json["inputs"] = self._inputs(node, schema, values)
        outputs = zip(schema["output_name"], schema["output"], strict=True)
        node.json["outputs"] = [{"name": name, "type": _type(kind), "links": None} for name, kind in outputs]
        for target in node.json["inputs"]:
            self._link(values.get(target["name"]), node, target)
        node.json["widgets_values"] = _widget_values(schema, values)
        node.json["size"][1] = tall or _height(node.json)
        return node

    def _place(self, kind: str, body: Json) -> Node:
        column = self._columns[-1]
        json = {
            "id": len(self._nodes) + 1,
            "type": kind,
            "pos": [0, 0],
            "size": [column.width, 0],
            "flags": {},
            "order": len(self._nodes),  # nodes are added in an order in which they can run
            "mode": 0,
            "inputs": [],
            "outputs": [],
            **body,
        }
        node = Node(json, {})
        column.nodes.append(node)
        self._nodes.append(node)
        return node

    def _inputs(self, node: Node, schema: Json, values: Json) -> list[Json]:
        """Sockets first, then what has a widget: the order of the front end."""
        widget_names = {name for name, _ in widgets_of(schema, values)}
        inputs = []
        for name, kind, optional in sorted(sockets_of(schema), key=lambda socket: socket[0] in widget_names):
            slot: Json = {"name": name, "type": _type(kind), "link": None}
            if name in widget_names:
                slot["widget"] = {"name": name}
            elif optional:
                slot["shape"] = 7
            inputs.append(slot)
        return inputs

    def _link(self, value: Any, node: Node, target: Json) -> None:
        if not isinstance(value, Output):
            return
        source = value.node.json["outputs"][value.slot]
        link_id = len(self._links) + 1
        slot = node.json["inputs"].index(target)
        self._links.append([link_id, value.node.json["id"], value.slot, node.json["id"], slot, source["type"]])
        target["link"] = link_id
        source["links"] = [*(source["links"] or []), link_id]

    def to_json(self) -> Json:
        """The workflow, laid out."""
        groups, right, bottom = self._lay_out()
        scale = round(max(READABLE, min(VIEW[0] / right, VIEW[1] / bottom, 1.0)), 2)
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"adacache/workflows/{self._name}")),
            "revision": 0,
            "last_node_id": len(self._nodes),
            "last_link_id": len(self._links),
            "nodes": [node.json for node in self._nodes],
            "links": self._links,
            "groups": groups,
            "config": {},
            "extra": {"ds": {"scale": scale, "offset": [round(corner / scale) for corner in CORNER]}},
            "version": 0.4,
        }

    def _lay_out(self) -> tuple[list[Json], int, int]:
        """Columns from left to right, nodes from top to bottom; the groups, and the extent."""
        groups: list[Json] = []
        x, bottom = 0, 0
        for column in self._columns:
            y = TITLE
            for node in column.nodes:
                node.json["pos"] = [x + PADDING, y]
                y += node.json["size"][1] + GAP
            height = y - GAP + FOOT
            if column.color:
                bounding = [x, 0, column.width + 2 * PADDING, height]
                groups.append({"id": len(groups) + 1, "title": column.title, "bounding": bounding})
                groups[-1] |= {"color": column.color, "font_size": 24, "flags": {}}
            x, bottom = x + column.width + 3 * PADDING, max(bottom, height)
        return groups, x, bottom


def _type(kind: Any) -> str:
    return "COMBO" if isinstance(kind, list) else kind


def _widget_values(schema: Json, values: Json) -> list[Any]:
    """In the order of the widgets; a seed stays as it is, so that two runs can be compared."""
    written = [
        "fixed" if name is None else default if isinstance(values.get(name), Output) else values.get(name, default)
        for name, default in widgets_of(schema, values)
    ]
    uploads = any(
        isinstance(options, dict) and (options.get("image_upload") or options.get("video_upload"))
        for _, *rest in schema["input"].get("required", {}).values()
        for options in rest
    )
    return [*written, "image"] if uploads else written


def _height(node: Json) -> int:
    """Between those of the two renderers: 20 for a row of slots, 24 for a widget in one and 32 in the other."""
    slots: Sequence[Json] = [slot for slot in node["inputs"] if "widget" not in slot]
    rows = 20 * max(len(slots), len(node["outputs"]))
    return rows + (28 * len(node["widgets_values"]) + 14 if node["widgets_values"] else 6)
