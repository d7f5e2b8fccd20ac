"""The shipped workflows on a real server, with tiny models under the very file names that they ask for."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pathspec
import pytest
import requests
from numpy.typing import NDArray
from PIL import Image
from stand_ins import files_of, runnable

from demo.comfyui import REPOSITORY, ComfyServer, PromptRun
from demo.gallery.__main__ import WORKFLOWS, dumps, make
from demo.gallery.cards import draw_card
from demo.gallery.catalogue import DEMOS, IMAGE_MODELS, RECIPES
from demo.gallery.compare import DRAFTS
from demo.gallery.notes import planned_parts
from demo.workflow import nodes_of_type, to_prompt, with_widget

RECIPE = {recipe.name: recipe for recipe in (*RECIPES, *DEMOS)}
NAMES = [recipe.name for recipe in RECIPES]
IMAGES = {recipe.name for recipe in IMAGE_MODELS}
COMPARISONS = ("Compare With and Without", "Compare MoReg")
EIGHT = "Drafts Eight Seeds, One in Full"
FINER = "Compare Finer Steps"
H3 = ("MiniMax H3 Text to Video", "MiniMax H3 Image to Video", "MiniMax H3 Text to Video, Finer Steps")

FRAMES = dict.fromkeys(H3, 22)  # the next length that it can make
# Numbers in a latent: channels x frames x rows x columns of 9 frames of 64 x 64, by each family's compression.
LATENT = {
    **dict.fromkeys(NAMES, 16 * 3 * 8 * 8),  # Wan 2.1 and 2.2
    **dict.fromkeys(H3, 24 * 7 * 4 * 4 + 32 * 2 * 37),  # and sound: 22 / 24 seconds of 40 moments, rounded
    "Wan 2.2 5B Text or Image to Video": 48 * 3 * 4 * 4,
    "HunyuanVideo 1.5 Text to Video": 32 * 3 * 4 * 4,
    "LTX-2 Text to Video with Sound": 128 * 2 * 2 * 2 + 8 * 10 * 16,  # 9 / 24 seconds of 25 moments, rounded up
    "Qwen-Image 2512 Text to Image": 16 * 8 * 8,
    "FLUX.2 Dev Text to Image": 128 * 4 * 4,
    "Z-Image Text to Image": 16 * 8 * 8,
}
WITHOUT_GUIDANCE = (*H3, "FLUX.2 Dev Text to Image")
pytestmark = [pytest.mark.server, pytest.mark.long]


def workflow(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def reports(run: PromptRun) -> list[dict[str, Any]]:
    """Of every inspector, in the order of the graph."""
    outputs = sorted(run.outputs.items(), key=lambda item: int(item[0]))
    return [output["adacache"][0] for _, output in outputs if "adacache" in output]


def saved(server: ComfyServer, run: PromptRun) -> list[NDArray[Any]]:
    """Frames of each saved file: frames x height x width x 3."""
    files = [file for output in run.outputs.values() for file in output.get("images", [])]
    found = []
    for file in sorted(files, key=lambda file: file["filename"]):
        content = io.BytesIO(server.download(file))
        if file["filename"].endswith(".png"):
            found.append(np.asarray(Image.open(content))[None])
        else:
            with av.open(content) as container:
                found.append(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]))
    return found


@pytest.mark.parametrize("name", RECIPE)
def test_the_file_is_what_the_gallery_makes(gallery, name):
    made = make(RECIPE[name], gallery.object_info())
    assert (WORKFLOWS / f"{name}.json").read_text(encoding="utf-8") == f"{dumps(made)}\n", "run: python -m demo.gallery"


@pytest.fixture
def busy(gallery: ComfyServer) -> Iterator[ComfyServer]:
    """The server while a prompt runs that does not end: others are validated, and wait."""
    blocker = gallery.queue({"1": {"class_type": "StandInBlocker", "inputs": {}}})
    yield gallery
    gallery.post("/queue", {"clear": True})
    gallery.interrupt()
    assert [event.type for event in gallery.wait(blocker)][-1] == "execution_interrupted"


@pytest.mark.parametrize("name", RECIPE)
def test_the_server_accepts_it_as_it_is(busy, name):
    prompt_id = busy.queue(to_prompt(workflow(name), busy.object_info()))
    assert prompt_id in {waiting[1] for waiting in busy.get("/queue")["queue_pending"]}


@pytest.mark.parametrize("name", [name for name in NAMES if name != EIGHT])
def test_it_runs_and_computes_what_its_note_says(gallery, name):
    recipe, object_info = RECIPE[name], gallery.object_info()
    prompt = to_prompt(runnable(workflow(name), object_info), object_info)
    (strength,) = {node["inputs"]["cfg"] for node in prompt.values() if "cfg" in node["inputs"]} or {1}
    run = gallery.run(prompt)
    found = reports(run)
    assert len(found) == len(nodes_of_type(workflow(name), "AdaCacheInspector"))
    runs = [one for report in found for one in report["runs"]]
    assert len(runs) == len(recipe.steps) * recipe.runs
    planned = [len(part) for part in planned_parts("balanced", recipe.steps)] * recipe.runs
    totals = [steps * (4 if name.endswith("Finer Steps") else 1) for steps in recipe.steps * recipe.runs]
    if name == FINER:
        totals[0] = planned[0] = recipe.steps[0]  # all of them, so that the inspector can measure
    for one, steps, computes in zip(runs, totals, planned, strict=True):
        computed = [step["step"] for step in one["steps"] if step["kind"] == "computed"]
        conditions = 1 if name in WITHOUT_GUIDANCE else 2
        assert (one["total_steps"], one["conditions"], one["finished"]) == (steps, conditions, True)
        # The last three predictions, two where guidance is strong, of each condition and of what guidance made of two,
        # and one corrected, in float32.
        corrected, each = steps > computes, 2 if strength >= 5 else 3
        assert one["cache_bytes"] == (each * (1 if conditions == 1 else 3) + corrected) * 4 * LATENT[name]
        if one["settings"]["moreg"] is None:
            assert len(computed) == computes
        assert computed[0] == 0
        if one["steps"][-1]["sigma"] < 0.5:  # the first of two experts hands on what it has
            assert computed[-1] == steps - 1
    assert f"- *balanced* computes {planned[-1] if name == FINER else sum(planned) // recipe.runs}," in note(name)
    frames, *card = saved(gallery, run)
    assert [picture.shape[2] for picture in card] == ([1024] if name == COMPARISONS[0] else [])
    width = 2 * 64 + 8 if name in COMPARISONS else 3 * 64 + 2 * 8 if name == FINER else 64
    assert frames.shape == (1 if name in IMAGES else FRAMES.get(name, 9), 64, width, 3)


def note(name: str) -> str:
    [node] = nodes_of_type(workflow(name), "MarkdownNote")
    return node["widgets_values"][0]


def test_eight_drafts_and_the_chosen_one_in_full(gallery):
    """Each draft has noise of its own, and the chosen one has that of the draft of its number."""
    object_info = gallery.object_info()
    graph = runnable(workflow(EIGHT), object_info)
    [steps], [computes] = RECIPE[EIGHT].steps, [len(part) for part in planned_parts("fast", RECIPE[EIGHT].steps)]
    line = f"AdaCache: computed {computes} of {steps} steps"
    before = gallery.log().count(line)
    run = gallery.run(to_prompt(graph, object_info))
    drafts = saved(gallery, run)
    assert [draft.shape for draft in drafts] == [(9, 64, 64, 3)] * DRAFTS
    assert gallery.log().count(line) - before == DRAFTS
    assert f"{DRAFTS * computes} steps in place of {DRAFTS * steps}" in note(EIGHT)
    chosen = with_widget(graph, "LatentFromBatch", "batch_index", 3, object_info)
    [final] = [node for node in nodes_of_type(chosen, "SaveVideo") if node["mode"]]
    final["mode"] = 0
    again = gallery.run(to_prompt(chosen, object_info))
    [full] = saved(gallery, PromptRun("", [], {"outputs": {str(final["id"]): again.outputs[str(final["id"])]}}))
    distances = [np.square(full.astype(float) - draft).mean() for draft in drafts]
    assert np.argmin(distances) == 3 and sorted(distances)[0] < 0.5 * sorted(distances)[1]
    samplers = {str(node["id"]) for node in nodes_of_type(chosen, "KSampler") if node["title"] == "Drafts"}
    assert not samplers & again.executed, "the drafts were sampled again"


@pytest.mark.parametrize("name", RECIPE)
def test_the_server_lists_it_with_its_picture(gallery, name):
    assert name in gallery.get("/workflow_templates")["adacache"]
    assert gallery.get(f"/api/workflow_templates/adacache/{name}.json") == workflow(name)
    picture = requests.get(f"{gallery.url}/api/workflow_templates/adacache/{name}.jpg", timeout=60)
    assert picture.headers["Content-Type"] == "image/jpeg"
    shown = np.asarray(Image.open(io.BytesIO(picture.content)), dtype=float)
    drawn = np.asarray(draw_card(RECIPE[name]), dtype=float)
    assert shown.shape == (480, 480, 3)
    assert np.abs(shown - drawn).mean() < 2, "run: python -m demo.gallery"


def test_the_archive_has_the_real_models_and_not_the_demo():
    ignored = pathspec.GitIgnoreSpec.from_lines((REPOSITORY / ".comfyignore").read_text(encoding="utf-8").splitlines())
    files = {path.name for path in WORKFLOWS.iterdir()}
    assert files == {f"{name}.{kind}" for name in RECIPE for kind in ("json", "jpg")}
    shipped = {name for name in files if not ignored.match_file(f"workflows/{name}")}
    assert shipped == {f"{name}.{kind}" for name in NAMES for kind in ("json", "jpg")}
    assert ignored.match_file("demo/demo_nodes/__init__.py")


@pytest.mark.parametrize("name", RECIPE)
def test_its_note_names_the_files_of_its_loaders_and_has_no_code_span(name):
    assert "`" not in note(name)
    files = files_of(workflow(name))
    assert bool(files) != RECIPE[name].demo
    for node in workflow(name)["nodes"]:
        assert {file["name"] for file in files_of({"nodes": [node]})} <= {*map(str, node.get("widgets_values", []))}
    for file in files:
        assert file["url"].endswith(f"/{file['name']}")
        assert f"| [{file['name']}]({file['url']}) | models/{file['directory']} |" in note(name)
