"""The shipped workflows on a real server, with tiny models under the very file names that they ask for."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pathspec
import pytest
import requests
from browser import FrontEnd, open_front_end
from PIL import Image
from playwright.sync_api import Browser
from stand_ins import DIFFUSION_MODELS, write

from demo.comfyui import REPOSITORY, ComfyServer, PromptRun, default_packs
from demo.gallery.__main__ import WORKFLOWS, dumps, make
from demo.gallery.cards import draw_card
from demo.gallery.catalogue import RECIPES
from demo.workflow import nodes_of_type, to_prompt

PATHS = {recipe.name: WORKFLOWS / f"{recipe.name}.json" for recipe in RECIPES}
RECIPE = {recipe.name: recipe for recipe in RECIPES}
# What the tests make in place of seconds of video. 10 steps, of which "balanced" computes 5.
SMALL = {"width": 64, "height": 64, "length": 9, "frames_number": 9, "steps": 10}
STEPS, COMPUTED = 10, 5
FRAMES = {
    "CogVideoX_VOID": 5,  # the node rounds down to an even number of latent frames, 2
    "Mochi_1": 5,  # 2 latent frames, 6 to 1, of which the stand-in of the VAE makes 4 to 1
}

# Numbers in a latent: channels x frames x rows x columns of 9 frames of 64 x 64, by each family's compression.
LATENT = {
    **dict.fromkeys(PATHS, 16 * 3 * 8 * 8),  # Wan 2.1 and 2.2, Cosmos Predict2, Kandinsky 5
    "Wan2.2_TI2V_5B": 48 * 3 * 4 * 4,
    "HunyuanVideo_1.5_T2V": 32 * 3 * 4 * 4,
    "LTX-Video_2B": 128 * 2 * 2 * 2,
    "LTX-2": 128 * 2 * 2 * 2 + 8 * 10 * 16,  # and sound: 9 / 24 seconds of 25 moments, rounded up
    "Mochi_1": 12 * 2 * 8 * 8,
    "CogVideoX_VOID": 16 * 2 * 8 * 8,
}
pytestmark = [pytest.mark.server, pytest.mark.long]


def workflow(name: str) -> dict[str, Any]:
    return json.loads(PATHS[name].read_text(encoding="utf-8"))


def files(name: str) -> list[dict[str, str]]:
    """The model files that a workflow's loaders name."""
    return [file for node in workflow(name)["nodes"] for file in node["properties"].get("models", [])]


@pytest.fixture(scope="module")
def models(comfy_imports: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders with a stand-in for every file that a workflow asks for."""
    folder = tmp_path_factory.mktemp("models")
    for name in PATHS:
        for file in files(name):
            write(file, folder)
    return folder


@pytest.fixture(scope="module")
def gallery(comfyui_path: Path, models: Path) -> Iterator[ComfyServer]:
    """A server with the stand-ins, their nodes, and the inputs that the workflows name."""
    packs = {**default_packs(), "stand_in_nodes": REPOSITORY / "tests" / "stand_in_nodes"}
    folders = {path.name: path for path in models.iterdir()}
    with ComfyServer(comfyui_path, packs=packs, models=folders) as running:
        picture = Image.new("RGBA", (64, 48), (200, 120, 40, 255))
        picture.paste((0, 0, 0, 0), (16, 12, 48, 36))  # transparent: a painted mask
        picture.save(running.base / "input" / "example.png")
        write_video(running.base / "input" / "video.mp4", frames=20)
        yield running


def write_video(path: Path, frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for index in range(frames):
            picture = np.full((96, 128, 3), 10 * index, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def runnable(prompt: dict[str, Any], family: str) -> dict[str, Any]:
    """A prompt for a small video, with stand-ins where a full-size encoder would be needed."""
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"] != "KSamplerAdvanced":  # these are 10 steps each as they are
            inputs |= {key: value for key, value in SMALL.items() if key in inputs}
        if node["class_type"] == "CLIPTextEncode":
            seed = len(inputs["text"])
            node |= {"class_type": "StandInPrompt", "inputs": {"family": family, "seed": seed}}
        elif node["class_type"] == "CLIPVisionEncode":
            node |= {"class_type": "StandInClipVision", "inputs": {"image": inputs["image"]}}
    return prompt


def family_of(name: str) -> str:
    """The family of a workflow's stand-ins."""
    [family] = {DIFFUSION_MODELS[stem] for file in files(name) if (stem := Path(file["name"]).stem) in DIFFUSION_MODELS}
    return family


def reports(run: PromptRun) -> list[dict[str, Any]]:
    """Of every inspector, in the order of the graph."""
    outputs = sorted(run.outputs.items(), key=lambda item: int(item[0]))
    return [output["adacache"][0] for _, output in outputs if "adacache" in output]


def video(server: ComfyServer, run: PromptRun) -> tuple[int, int, int]:
    """Frames, height and width of the saved video."""
    [saved] = [file for output in run.outputs.values() for file in output.get("images", [])]
    with av.open(io.BytesIO(server.download(saved))) as container:
        shapes = [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]
    assert len(set(shapes)) == 1
    return len(shapes), *shapes[0][:2]


@pytest.mark.parametrize("name", PATHS)
def test_the_file_is_what_the_gallery_makes(gallery, name):
    made = make(RECIPE[name], gallery.object_info())
    assert PATHS[name].read_text(encoding="utf-8") == f"{dumps(made)}\n", "run: python -m demo.gallery"


@pytest.fixture
def busy(gallery: ComfyServer) -> Iterator[ComfyServer]:
    """The server while a prompt runs that does not end: others are validated, and wait."""
    blocker = gallery.queue({"1": {"class_type": "StandInBlocker", "inputs": {}}})
    yield gallery
    gallery.post("/queue", {"clear": True})
    gallery.interrupt()
    assert [event.type for event in gallery.wait(blocker)][-1] == "execution_interrupted"


@pytest.mark.parametrize("name", PATHS)
def test_the_server_accepts_it_as_it_is(busy, name):
    prompt_id = busy.queue(to_prompt(workflow(name), busy.object_info()))
    assert prompt_id in {waiting[1] for waiting in busy.get("/queue")["queue_pending"]}


@pytest.mark.parametrize("name", PATHS)
def test_it_runs_with_tiny_models_under_the_names_it_asks_for(gallery, name):
    prompt = runnable(to_prompt(workflow(name), gallery.object_info()), family_of(name))
    run = gallery.run(prompt)
    found = reports(run)
    assert len(found) == len(nodes_of_type(workflow(name), "AdaCacheInspector"))
    runs = [one for report in found for one in report["runs"]]
    assert len(runs) == len(RECIPE[name].steps)
    for one in runs:
        computed = [step["step"] for step in one["steps"] if step["kind"] == "computed"]
        assert (one["total_steps"], one["conditions"], one["finished"]) == (STEPS, 2, True)
        # The last two predictions of two conditions and of what guidance made of them, in float32.
        assert one["cache_bytes"] == 2 * 3 * 4 * LATENT[name]
        if one["settings"]["moreg"] is None:
            assert len(computed) == COMPUTED
        assert computed[:2] == [0, 1] and computed[-1] == STEPS - 1
        assert [step["reason"] for step in one["steps"] if step["kind"] == "skipped"] == ["skipped"] * (
            STEPS - len(computed)
        )
    frames, height, width = video(gallery, run)
    assert (frames, height) == (FRAMES.get(name, 9), 64)
    assert width == (2 * 64 + 8 if RECIPE[name].comparison else 64)


@pytest.fixture(scope="module")
def front_end(chromium: Browser, gallery: ComfyServer) -> Iterator[FrontEnd]:
    with open_front_end(chromium, gallery, size=(1600, 900)) as opened:
        yield opened


# What the front end made of a file: nodes it does not know, combos whose value is none of their options, links by the
# names of their slots, and the nodes' boxes with their titles.
LOOK = """() => ({
    dialogs: document.querySelectorAll('[role=dialog]').length,
    missing: app.graph.nodes.filter((node) => !(node.type in LiteGraph.registered_node_types) || node.has_errors)
        .map((node) => node.type),
    unknown: app.graph.nodes.flatMap((node) => (node.widgets ?? [])
        .filter((widget) => widget.type === 'combo' && Array.isArray(widget.options.values)
            && !widget.options.values.includes(widget.value))
        .map((widget) => `${node.type}.${widget.name}: ${widget.value}`)),
    links: [...app.graph.links.values()].map((link) => {
        const [from, to] = [app.graph.getNodeById(link.origin_id), app.graph.getNodeById(link.target_id)]
        return [Number(from.id), from.outputs[link.origin_slot].name, Number(to.id), to.inputs[link.target_slot].name]
    }),
    boxes: app.graph.nodes.map((node) => [node.title, [...node.boundingRect]]),
})"""


def links_of(graph: dict[str, Any]) -> list[list[Any]]:
    """(from node, output, to node, input) of a file's links."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    return [
        [source, nodes[source]["outputs"][output]["name"], target, nodes[target]["inputs"][slot]["name"]]
        for _, source, output, target, slot, _ in graph["links"]
    ]


def bare(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt without the nodes' titles, for which the front end has words of its own."""
    return {key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in prompt.items()}


def overlap(one: list[float], other: list[float]) -> bool:
    """Of two boxes: left, top, width, height."""
    return all(one[i] < other[i] + other[i + 2] and other[i] < one[i] + one[i + 2] for i in (0, 1))


@pytest.mark.parametrize("name", PATHS)
def test_it_opens_in_the_front_end(front_end, name):
    file = workflow(name)
    front_end.drop(f"{name}.json", json.dumps(file))
    front_end.page.wait_for_function("(id) => app.graph.id === id", arg=file["id"])
    front_end.page.wait_for_timeout(500)
    seen = front_end.page.evaluate(LOOK)
    front_end.screenshot(f"workflow-{name}")
    assert (seen["dialogs"], seen["missing"], seen["unknown"]) == (0, [], [])
    assert sorted(seen["links"]) == sorted(links_of(file))
    boxes = seen["boxes"]
    assert len(boxes) == len(file["nodes"])
    assert [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if overlap(one, other)] == []
    prompt = front_end.page.evaluate("app.graphToPrompt().then(({ output }) => output)")
    assert bare(prompt) == bare(to_prompt(file, front_end.server.object_info()))


@pytest.mark.parametrize("name", PATHS)
def test_the_server_lists_it_with_its_picture(gallery, name):
    assert name in gallery.get("/workflow_templates")["adacache"]
    assert gallery.get(f"/api/workflow_templates/adacache/{name}.json") == workflow(name)
    picture = requests.get(f"{gallery.url}/api/workflow_templates/adacache/{name}.jpg", timeout=60)
    assert picture.headers["Content-Type"] == "image/jpeg"
    shown = np.asarray(Image.open(io.BytesIO(picture.content)), dtype=float)
    drawn = np.asarray(draw_card(RECIPE[name]), dtype=float)
    assert shown.shape == (480, 480, 3)
    assert np.abs(shown - drawn).mean() < 2, "run: python -m demo.gallery"


def test_the_template_browser_shows_them_and_loads_one(front_end):
    page = front_end.page
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    browser = page.get_by_role("dialog")
    browser.get_by_role("button", name="adacache").or_(browser.get_by_text("adacache", exact=True)).first.click()
    for name in PATHS:
        browser.get_by_text(name, exact=True).first.scroll_into_view_if_needed()
        picture = browser.get_by_alt_text(name, exact=True)
        picture.wait_for()
        assert picture.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 480
    front_end.screenshot("templates")
    browser.get_by_alt_text("LTX-2", exact=True).click()
    page.wait_for_function("(id) => app.graph.id === id", arg=workflow("LTX-2")["id"])
    assert len(page.evaluate("app.graph.nodes.map(({ id }) => id)")) == len(workflow("LTX-2")["nodes"])


def test_the_archive_has_the_real_models_and_not_the_demo():
    ignored = pathspec.GitIgnoreSpec.from_lines((REPOSITORY / ".comfyignore").read_text(encoding="utf-8").splitlines())
    shipped = {path.name for path in WORKFLOWS.iterdir() if not ignored.match_file(f"workflows/{path.name}")}
    assert shipped == {f"{name}.{kind}" for name in PATHS for kind in ("json", "jpg")}
    assert (WORKFLOWS / "demo_wan_t2v.json").is_file()
    assert ignored.match_file("demo/gallery/models.json")


@pytest.mark.parametrize("name", PATHS)
def test_its_note_and_its_loaders_name_the_same_files(name):
    graph = workflow(name)
    [note] = nodes_of_type(graph, "MarkdownNote")
    for node in graph["nodes"]:
        for file in node["properties"].get("models", []):
            assert file["name"] in node["widgets_values"]
            assert file["url"].endswith(f"/{file['name']}")
            row = f"| [{file['name']}]({file['url']}) | `models/{file['directory']}` |"
            assert row in note["widgets_values"][0]
