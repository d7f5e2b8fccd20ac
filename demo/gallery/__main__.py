"""Writes ``workflows/``, the graphs and their pictures, and ``subgraphs/``, the blueprint.

python -m demo.gallery             # asks a real server for the nodes' schemas
"""

from __future__ import annotations

import json
from typing import Any

from demo.comfyui import REPOSITORY, ComfyServer
from demo.gallery import blueprint
from demo.gallery.cards import draw_card
from demo.gallery.catalogue import DEMOS, RECIPES
from demo.gallery.graph import Graph
from demo.gallery.notes import write_note
from demo.gallery.parts import Recipe
from demo.workflow import Json

WORKFLOWS = REPOSITORY / "workflows"
BLUEPRINT = REPOSITORY / "subgraphs" / f"{blueprint.NAME}.json"


def make(recipe: Recipe, schemas: Json) -> Json:
    """A recipe's workflow: the note, which names the files of all loaders, then the recipe's own nodes."""
    graph = Graph(recipe.name, schemas)
    graph.column("Read me", 460)
    note = graph.note("Read me", height=760)
    recipe.build(graph, recipe)
    note.json["widgets_values"] = [write_note(recipe, graph.files, graph.holds("AdaCacheInspector"))]
    return graph.to_json()


def dumps(value: Any, indent: str = "") -> str:
    """JSON in which what holds nothing nested has a line of its own, so that a diff shows slots and links."""
    parts = list(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
    if not any(isinstance(part, (dict, list)) for part in parts):
        return json.dumps(value, ensure_ascii=False)
    inner = indent + "  "
    keys = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(parts)
    lines = [f"{inner}{key}{dumps(part, inner)}" for key, part in zip(keys, parts, strict=True)]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return f"{start}\n" + ",\n".join(lines) + f"\n{indent}{end}"


def main() -> None:
    with ComfyServer() as server:
        schemas = server.object_info()
    for recipe in (*RECIPES, *DEMOS):
        draw_card(recipe).save(WORKFLOWS / f"{recipe.name}.jpg", quality=92, optimize=True)
        path = WORKFLOWS / f"{recipe.name}.json"
        path.write_text(f"{dumps(make(recipe, schemas))}\n", encoding="utf-8")
        print(path)
    BLUEPRINT.write_text(f"{dumps(blueprint.make_blueprint(schemas))}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
