"""A real ComfyUI for the tests: in this process, or as a server."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_models
import torch
from browser import find_chromium, launch
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from demo.comfyui import REPOSITORY, ComfyServer, find_comfyui


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """ComfyUI's folder: the user's own, or a fetched one."""
    return find_comfyui()


@pytest.fixture(scope="session")
def comfy_imports(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes ``import comfy`` work in this process, on the CPU and with a base directory of its own."""
    # First, since ComfyUI's nodes.py and this repository's nodes/ have one name.
    sys.path.insert(0, str(comfyui_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what ComfyUI and its dependencies warn of while they are imported
        from comfy.cli_args import args

        torch.set_num_threads(1)  # tiny models; more threads only wait for each other, above all under pytest-xdist
        args.cpu = True  # read when comfy.model_management is imported
        args.base_directory = str(tmp_path_factory.mktemp("comfyui"))
        import comfy_api.latest  # noqa: F401

        import nodes

        assert Path(nodes.__file__) == comfyui_path / "nodes.py", f"import nodes gave {nodes.__file__}"
    return comfyui_path


@pytest.fixture(scope="session")
def pack(comfy_imports: Path) -> ModuleType:
    """This pack as ComfyUI loads it: a package, here named ``adacache``."""
    if "adacache" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "adacache", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["adacache"] = module
        spec.loader.exec_module(module)
    return sys.modules["adacache"]


@pytest.fixture(scope="module")
def wan(pack: ModuleType) -> Any:
    """A tiny Wan 2.1, loaded by ComfyUI's own loader."""
    return tiny_models.load("WAN21_T2V")


@pytest.fixture
def without_gradients() -> Iterator[None]:
    """As ComfyUI executes nodes."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def demo_weights() -> Path:
    """The folder of the demo model's weights."""
    weights = REPOSITORY / "demo" / "weights"
    missing = [
        n
        for n in ("adacache_demo_dit", "adacache_demo_causal_dit", "adacache_demo_vae")
        if not (weights / f"{n}.safetensors").is_file()
    ]
    if missing:
        pytest.fail(f"{weights} lacks {', '.join(missing)}. Restore it with git, or run: python demo/train.py all")
    return weights


@pytest.fixture(scope="session")
def server(comfyui_path: Path) -> Iterator[ComfyServer]:
    """A running server with this pack, the demo's nodes and its weights; one per process of pytest-xdist."""
    with ComfyServer(comfyui_path) as running:
        yield running


@pytest.fixture(scope="session")
def gallery(comfy_imports: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with a stand-in for every file that a shipped workflow names, and with this pack alone."""
    import stand_ins

    models = tmp_path_factory.mktemp("models")
    stand_ins.write_all(models)
    packs = {"adacache": REPOSITORY, "stand_in_nodes": REPOSITORY / "tests" / "stand_in_nodes"}
    with ComfyServer(comfy_imports, packs=packs, models={path.name: path for path in models.iterdir()}) as running:
        Image.new("RGB", (64, 48), (200, 120, 40)).save(running.base / "input" / "example.png")
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless Chromium, for one module: Playwright runs an event loop, in which ComfyUI cannot start its own."""
    path = find_chromium()
    if path is None:
        message = "There is no Chromium on this machine; `make browser` installs it."
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    with sync_playwright() as playwright:
        running = launch(playwright, path)
        yield running
        running.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not {"server", "gallery"}.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)
