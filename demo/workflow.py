"""UI-format workflows (version 0.4) to API prompts, by the rules of ComfyUI's front end (1.47).

Covers what this pack's workflows use: widgets with their extra controls, dynamic combos, inputs converted from
widgets, muted and bypassed nodes, reroutes, primitives and notes. Anything else is refused, never guessed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

ALWAYS, MUTED, BYPASSED = 0, 2, 4  # LiteGraph's numbers

_NOTES = ("Note", "MarkdownNote")
_WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR")
_DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
# Types whose widgets take positions among a node's values in ways of their own.
_REFUSED_TYPES = (
    *("LOAD_3D", "WEBCAM", "AUDIO_RECORD", "IMAGECOMPARE", "CURVE"),
    *("BOUNDING_BOX", "BOUNDING_BOXES", "COLORS"),
)

Json = dict[str, Any]


class WorkflowError(ValueError):
    """A workflow that cannot be converted."""


@dataclass(frozen=True)
class _Widget:
    """One position in ``widgets_values``; controls such as control_after_generate have no input and so no name."""

    name: str | None
    default: Any = None


def to_prompt(workflow: Json, object_info: Json) -> Json:
    """Converts a workflow as the front end does when it queues it.

    Args:
        workflow: content of a workflow file, version 0.4; not changed.
        object_info: the server's answer to ``/object_info``: schemas by node type.

    Returns:
        Nodes by id: ``class_type``, ``inputs`` (a value, or ``[node id, output slot]``), ``_meta``.

    Raises:
        WorkflowError: if it is no 0.4 workflow, names unknown nodes, or uses what is not covered here.
    """
    graph = _Graph(workflow)
    prompt = {}
    for node in graph.nodes.values():
        if _is_virtual(node) or node.get("mode", ALWAYS) in (MUTED, BYPASSED):
            continue
        title = node.get("title") or _definition(node, object_info).get("display_name") or node["type"]
        prompt[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": graph.inputs_of(node, _definition(node, object_info)),
            "_meta": {"title": title},
        }
    return prompt


# --- Changes to a workflow -------------------------------------------------------------------------------------------


def nodes_of_type(workflow: Json, node_type: str) -> list[Json]:
    """The nodes of a type, at least one.

    Raises:
        WorkflowError: if there is none.
    """
    nodes = [node for node in workflow["nodes"] if node["type"] == node_type]
    if not nodes:
        present = sorted({node["type"] for node in workflow["nodes"]})
        raise WorkflowError(f"The workflow has no {node_type} node. It has: {', '.join(present)}.")
    return nodes


def with_mode(workflow: Json, node_type: str, mode: int) -> Json:
    """A copy of the workflow in which every node of a type is ``ALWAYS``, ``MUTED`` or ``BYPASSED``."""
    changed = copy.deepcopy(workflow)
    for node in nodes_of_type(changed, node_type):
        node["mode"] = mode
    return changed


def with_widget(workflow: Json, node_type: str, name: str, value: Any, object_info: Json) -> Json:
    """A copy of the workflow in which a widget of every node of a type has another value.

    Raises:
        WorkflowError: if there is no such node, or it has no such widget.
    """
    changed = copy.deepcopy(workflow)
    for node in nodes_of_type(changed, node_type):
        values = node.get("widgets_values") or []
        if isinstance(values, dict):
            values[name] = value
            continue
        widgets = _widgets(_definition(node, object_info)["input"], values)
        names = [widget.name for widget in widgets]
        if name not in names:
            known = ", ".join(known for known in names if known)
            raise WorkflowError(f"{_label(node)} has no widget {name!r}. Its widgets: {known or 'none'}.")
        missing = [widget.default for widget in widgets[len(values) :]]
        node["widgets_values"] = [*values, *missing]
        node["widgets_values"][names.index(name)] = value
    return changed


# --- Sockets and widgets ---------------------------------------------------------------------------------------------


def sockets_of(definition: Json) -> list[tuple[str, Any, bool]]:
    """Name, type, and whether it is optional, of each input that can be linked."""
    optional = definition["input"].get("optional") or {}
    specifications = _specifications(definition["input"])
    return [(name, kind, name in optional) for name, kind, options in specifications if not options.get("socketless")]


def widgets_of(definition: Json, chosen: Json | None = None) -> list[tuple[str | None, Any]]:
    """Name and default of each widget, in the order of ``widgets_values``; a control of another one has no name.

    What a dynamic combo brings is of the first of its choices, unless ``chosen`` names another by the combo's name.
    """
    return [(widget.name, widget.default) for widget in _widgets(definition["input"], [], chosen)]


def _widgets(
    inputs: Json, values: list[Any], chosen: Json | None = None, prefix: str = "", start: int = 0
) -> list[_Widget]:
    """The widgets that the front end makes for a schema's inputs, in order; ``values`` selects in dynamic combos."""
    chosen = chosen or {}
    widgets: list[_Widget] = []
    for name, kind, options in _specifications(inputs):
        kind = options.get("widgetType", kind)
        if options.get("forceInput"):
            continue
        if kind in _REFUSED_TYPES:
            raise WorkflowError(f"Input {name!r} has a {kind} widget, which this converter does not know.")
        if kind == _DYNAMIC_COMBO:
            position = start + len(widgets)
            choices = {option["key"]: option["inputs"] for option in options["options"]}
            key = values[position] if position < len(values) else chosen.get(prefix + name, next(iter(choices)))
            if key not in choices:
                raise WorkflowError(f"{prefix}{name} is {key!r}, but it can be: {', '.join(map(str, choices))}.")
            widgets.append(_Widget(prefix + name, key))
            widgets += _widgets(choices[key], values, chosen, f"{prefix}{name}.", position + 1)
        elif kind in _WIDGET_TYPES:
            widgets.append(_Widget(prefix + name, _default(kind, options)))
            widgets += [_Widget(None)] * _controls(name, kind, options)
    return widgets


def _specifications(inputs: Json) -> list[tuple[str, str, Json]]:
    """(name, type, options) of each input, required ones first. A list in place of the type is an old-style combo."""
    specifications = []
    for section in ("required", "optional"):
        for name, (kind, *rest) in (inputs.get(section) or {}).items():
            options = rest[0] if rest else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {"options": kind, **options}
            specifications.append((name, kind, options))
    return specifications


def _default(kind: str, options: Json) -> Any:
    if "default" in options:
        return options["default"]
    if kind == "COMBO":
        return next(iter(options.get("options") or []), None)
    return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(kind)


def _controls(name: str, kind: str, options: Json) -> int:
    """How many values of their own the controls after a widget have."""
    if kind == "INT":
        return int(bool(options.get("control_after_generate", name in ("seed", "noise_seed"))))
    return 2 if kind == "COMBO" and options.get("control_after_generate") else 0  # the control and its filter


def _widget_values(node: Json, definition: Json) -> Json:
    values = node.get("widgets_values") or []
    try:
        if isinstance(values, dict):
            names = [widget.name for widget in _widgets(definition["input"], [])]
            return {name: values[name] for name in names if name and name in values}
        widgets = _widgets(definition["input"], values)
    except WorkflowError as error:
        raise WorkflowError(f"{_label(node)}: {error}") from None
    values = [*values, *(widget.default for widget in widgets[len(values) :])]
    pairs = {widget.name: value for widget, value in zip(widgets, values, strict=False) if widget.name}
    # A list would be read as a link.
    return {name: {"__value__": value} if isinstance(value, list) else value for name, value in pairs.items()}


# --- Links -----------------------------------------------------------------------------------------------------------


class _Graph:
    """Nodes and links by id, and where a link comes from once bypassed and virtual nodes are out of the way."""

    def __init__(self, workflow: Json) -> None:
        _check_format(workflow)
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        self.links = {link[0]: link for link in workflow["links"]}

    def inputs_of(self, node: Json, definition: Json) -> Json:
        inputs = _widget_values(node, definition)
        for slot in node.get("inputs") or []:
            origin = self._origin(slot.get("link"))
            if origin is not None and origin["type"] == "PrimitiveNode":
                inputs[slot["name"]] = origin["widgets_values"][0]
                continue
            source = self._source(slot.get("link"), slot["type"], ())
            if source is not None:
                inputs[slot["name"]] = list(source)
        return inputs

    def _origin(self, link_id: int | None) -> Json | None:
        if link_id is None:
            return None
        if link_id not in self.links:
            raise WorkflowError(f"Link {link_id} is used by an input but missing from the workflow's links.")
        origin_id = self.links[link_id][1]
        if origin_id not in self.nodes:
            raise WorkflowError(f"Link {link_id} comes from node {origin_id}, which the workflow does not have.")
        return self.nodes[origin_id]

    def _source(self, link_id: int | None, wanted: str, passed: tuple[int, ...]) -> tuple[str, int] | None:
        """(node id, output slot) of the running node at the other end, or None if there is none."""
        node = self._origin(link_id)
        if node is None or node.get("mode", ALWAYS) == MUTED:
            return None
        assert link_id is not None
        if link_id in passed:
            raise WorkflowError(f"The links through {_label(node)} run in a circle.")
        output, passed = int(self.links[link_id][2]), (*passed, link_id)
        inputs = node.get("inputs") or []
        if node.get("mode", ALWAYS) == BYPASSED:
            slot = _bypass_slot(node, output, wanted)
            return None if slot is None else self._source(inputs[slot].get("link"), inputs[slot]["type"], passed)
        if node["type"] == "Reroute":
            return self._source(inputs[0].get("link"), wanted, passed) if inputs else None
        return str(node["id"]), output


def _bypass_slot(node: Json, output: int, wanted: str) -> int | None:
    """The input that a bypassed node's output passes on: the one at its position, else the first of its type."""
    types = [slot["type"] for slot in node.get("inputs") or []]
    offered = node["outputs"][output]["type"]
    if wanted in ("*", ""):
        return (output if output < len(types) else 0) if types else None
    fits = [_connects(kind, offered) and _connects(kind, wanted) for kind in types]
    if output < len(types) and fits[output]:
        return output
    if wanted in types:
        return types.index(wanted)
    return fits.index(True) if True in fits else None


def _connects(one: str, other: str) -> bool:
    if one in ("*", "") or other in ("*", ""):
        return True
    return not {*one.lower().split(",")}.isdisjoint(other.lower().split(","))


# --- Checks ----------------------------------------------------------------------------------------------------------


def _check_format(workflow: Json) -> None:
    if "nodes" not in workflow:
        hint = "It looks like an API prompt already. " if _looks_like_prompt(workflow) else ""
        raise WorkflowError(f"Not a workflow: it has no nodes. {hint}Save it with the front end's Save.")
    if workflow.get("version") != 0.4:
        raise WorkflowError(f"The workflow has format version {workflow.get('version')!r}, but only 0.4 is supported.")
    subgraphs = {subgraph["id"] for subgraph in (workflow.get("definitions") or {}).get("subgraphs") or []}
    used = [_label(node) for node in workflow["nodes"] if node["type"] in subgraphs]
    if used:
        raise WorkflowError(f"Subgraphs are not supported: {', '.join(used)}. Unpack them in the front end.")


def _looks_like_prompt(workflow: Json) -> bool:
    return any(isinstance(value, dict) and "class_type" in value for value in workflow.values())


def _is_virtual(node: Json) -> bool:
    return node["type"] in (*_NOTES, "Reroute", "PrimitiveNode")


def _definition(node: Json, object_info: Json) -> Json:
    if node["type"] not in object_info:
        raise WorkflowError(f"{_label(node)}: the server has no node {node['type']!r}. Is its pack installed?")
    return object_info[node["type"]]


def _label(node: Json) -> str:
    return f"{node.get('title') or node['type']} (node {node['id']})"
