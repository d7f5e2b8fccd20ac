"""Installs as users do them: through ComfyUI Manager, and from the archive for the registry; and what they hold."""

from __future__ import annotations

import ast
import compileall
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from demo.comfyui import CACHE, REPOSITORY, ComfyServer, PromptRun, default_packs
from demo.demo import WORKFLOW, node_id, prompt_of
from demo.workflow import with_widget

TOOLS = Path(__file__).with_name("install_tools.txt")
PLANNED = 15  # steps that "balanced" computes of the demo workflow's 30
MANAGERS_NAME = "adacache"  # the folder that ComfyUI Manager makes is named after the repository
PACKED = [
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "__init__.py",
    "adacache_core",
    "locales",
    "nodes",
    "pyproject.toml",
    "subgraphs",
    "web",
    "workflows",
]
MEGABYTE = 1_000_000

pytestmark = pytest.mark.long


def run(command: list[str], cwd: Path, **environment: str) -> str:
    """Run a command that must succeed; returns what it printed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def tools() -> Path:
    """``bin`` of an environment with Manager and comfy-cli, which run pip in their own; made once."""
    folder = CACHE / f"install-tools-{hashlib.sha256(TOOLS.read_bytes()).hexdigest()[:12]}"
    ready = folder / "ready"
    if not ready.exists():
        uv = str(Path(sys.prefix) / "bin" / "uv")
        run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], REPOSITORY)
        install = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), "-r", str(TOOLS)]
        run(install, REPOSITORY)
        ready.touch()
    return folder / "bin"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the working tree as its one commit: what a commit of everything would be."""
    folder = tmp_path_factory.mktemp("repository")
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], REPOSITORY)
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    run(["git", "init", "--quiet"], folder)
    run(["git", "add", "--all"], folder)
    author = ["-c", "user.name=test", "-c", "user.email=test", "-c", "commit.gpgsign=false"]
    run(["git", *author, "commit", "--quiet", "--no-verify", "--message", "working tree"], folder)
    return folder


@pytest.fixture(scope="module")
def by_manager(tools: Path, repository: Path, comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack as ``custom_nodes`` has it after an install with ComfyUI Manager's command line, offline."""
    served, comfyui = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("comfyui")
    run(["git", "clone", "--quiet", "--bare", str(repository), str(served / "owner" / MANAGERS_NAME)], served)
    # What Manager reads of ComfyUI; its base directory is where its code lies.
    for name in ("main.py", "folder_paths.py", "requirements.txt", "comfyui_version.py"):
        shutil.copy(comfyui_path / name, comfyui / name)
    for name in ("comfy", "utils"):
        shutil.copytree(comfyui_path / name, comfyui / name)
    (comfyui / "custom_nodes").mkdir()
    # Manager takes addresses of this form only, and fetches from the endpoint in its place.
    address = f"https://github.com/owner/{MANAGERS_NAME}"
    output = run(
        [str(tools / "python"), "-m", "cm_cli", "install", address, "--exit-on-fail"],
        comfyui,
        GITHUB_ENDPOINT=served.as_uri(),
        COMFYUI_PATH=str(comfyui),
    )
    assert "Installation was successful." in output
    return comfyui / "custom_nodes" / MANAGERS_NAME


@pytest.fixture(scope="module")
def archive(tools: Path, repository: Path) -> Path:
    """The archive that comfy-cli would send to the registry."""
    assert "Created zip file" in comfy(tools, repository, "pack")
    return repository / "node.zip"


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive in a fresh ``custom_nodes``."""
    folder = tmp_path_factory.mktemp("custom_nodes") / "adacache"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    return folder


def comfy(tools: Path, repository: Path, command: str) -> str:
    # Its own ruff, wherever the caller's PATH leads; no home of a user, which it would write to.
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    arguments = [str(tools / "comfy"), "--skip-prompt", "--no-enable-telemetry", "node", command]
    return run(arguments, repository, PATH=path, HOME=str(repository.parent), COLUMNS="200")


# --- What is installed -----------------------------------------------------------------------------------------------


@pytest.mark.server
@pytest.mark.usefixtures("demo_weights")
@pytest.mark.parametrize("installed", ["by_manager", "unpacked"])
def test_an_installed_pack_runs_the_demo_workflow(installed, comfyui_path, request):
    """A clone brings the demo's nodes and weights; the registry's archive does not."""
    pack: Path = request.getfixturevalue(installed)
    alone = {"packs": {"adacache": pack}, "models": {}}
    beside = {"packs": {**default_packs(), "adacache": pack}}
    with ComfyServer(comfyui_path, **(alone if installed == "by_manager" else beside)) as server:
        result, inspector = run_demo_workflow(server)
        log = server.log()
    [report] = result.outputs[inspector]["adacache"]
    assert (report["computed_steps"], report["total_steps"]) == (PLANNED, 30)
    [seconds] = re.findall(r"([\d.]+) seconds: \S+/custom_nodes/adacache$", log, re.MULTILINE)
    print(f"ComfyUI imported the pack in {seconds} s")


def run_demo_workflow(server: ComfyServer) -> tuple[PromptRun, str]:
    """Runs the shipped workflow for a small video; also returns the inspector's id."""
    object_info = server.object_info()
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    for name, value in {"width": 64, "height": 64, "length": 17}.items():
        workflow = with_widget(workflow, "EmptyHunyuanLatentVideo", name, value, object_info)
    prompt = prompt_of("balanced", workflow, object_info)
    return server.run(prompt), node_id(prompt, "AdaCacheInspector")


def test_the_archive_holds_the_pack_and_nothing_else(archive):
    assert archive.stat().st_size < 2 * MEGABYTE
    with zipfile.ZipFile(archive) as packed:
        files = [PurePosixPath(name) for name in packed.namelist() if not name.endswith("/")]
    assert sorted({file.parts[0] for file in files}) == PACKED
    assert {file.suffix for file in files} <= {"", ".md", ".toml", ".py", ".js", ".css", ".json", ".jpg", ".png"}
    workflows: dict[str, set[str]] = {}
    for file in files:
        if file.parts[0] == "workflows":
            workflows.setdefault(file.stem, set()).add(file.suffix)
    assert len(workflows) >= 15
    assert all(kinds == {".json", ".jpg"} for kinds in workflows.values()), workflows
    assert not any(name.startswith("AdaCache Demo") for name in workflows)


# --- The registry's checks -------------------------------------------------------------------------------------------


def test_the_registry_has_nothing_to_warn_of(tools, repository):
    output = comfy(tools, repository, "validate")
    assert "All validation checks passed successfully" in output
    assert "warning" not in output.lower()


def test_the_rules_of_the_registry_hold_without_our_configuration(unpacked):
    ruff = [str(Path(sys.prefix) / "bin" / "ruff"), "check", "--isolated", "--no-cache", "--select", "S102,S307,E702"]
    assert "All checks passed!" in run([*ruff, "."], unpacked)


PACKAGES = {"PIL", "comfy", "comfy_api", "comfy_execution", "einops", "folder_paths", "numpy", "torch", "tqdm"}
# Imported in Raylight's workers only, by functions that are there where it is installed.
OPTIONAL = {"ray"}
# What reaches the network, other processes, the environment, or code that is not in the archive.
DANGEROUS = {
    *("asyncio", "code", "codeop", "ctypes", "ensurepip", "ftplib", "http", "imaplib", "importlib", "multiprocessing"),
    *("os", "pickle", "poplib", "pty", "runpy", "shelve", "shutil", "signal", "smtplib", "socket", "socketserver"),
    *("ssl", "subprocess", "telnetlib", "urllib", "venv", "webbrowser", "xmlrpc", "zipimport"),
}
FORBIDDEN = {
    ".py": r"(?<![\w.])(eval|exec|compile|__import__)\s*\(|\.(send|connect)\s*\(|\bpip\b|\benviron\b|(https?|wss?)://",
    ".js": r"\b(eval|Function|fetch|import|importScripts)\s*\(|\.(send|connect|sendBeacon)\s*\("
    r"|\b(XMLHttpRequest|WebSocket|EventSource|innerHTML)\b|(https?|wss?)://",
    ".css": r"@import|(https?|wss?)://|url\(",
}
SVG_NAMESPACE = "http://www.w3.org/2000/svg"  # a name, never fetched


def test_no_packed_file_reaches_out(unpacked):
    for path in unpacked.rglob("*"):
        if path.suffix in FORBIDDEN:
            text = path.read_text(encoding="utf-8").replace(SVG_NAMESPACE, "")
            assert not re.search(FORBIDDEN[path.suffix], text), (path, re.search(FORBIDDEN[path.suffix], text))
    imported = {name: path for path in unpacked.rglob("*.py") for name in absolute_imports(path)}
    assert PACKAGES <= imported.keys(), "this test must be able to see imports"
    known = PACKAGES | OPTIONAL | set(sys.stdlib_module_names)
    foreign = {name: path for name, path in imported.items() if name not in known}
    assert not foreign
    # Between a prompt and the workers that Raylight has started for it, by Ray's own means.
    remote = {unpacked / "nodes" / "raylight.py", unpacked / "nodes" / "ray_log.py"}
    elsewhere = {name for path in unpacked.rglob("*.py") if path not in remote for name in absolute_imports(path)}
    assert not DANGEROUS & elsewhere
    assert (DANGEROUS & imported.keys()) <= {"importlib", "pickle"}
    served = {"../../scripts/app.js", "../../scripts/api.js"}
    for path in (unpacked / "web").glob("*.js"):
        for module in re.findall(r"\bfrom '(.+)'", path.read_text(encoding="utf-8")):
            assert module in served or (module.startswith("./") and (path.parent / module).is_file()), (path, module)


def absolute_imports(path: Path) -> Iterator[str]:
    """Top-level packages that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            yield node.module.split(".")[0]


# --- Import ----------------------------------------------------------------------------------------------------------

IMPORT = """
import importlib.util, json, os, sys, time
comfyui, pack = sys.argv[1:]
sys.argv = sys.argv[:1]
sys.path.insert(0, comfyui)
from comfy.cli_args import args
args.cpu = True
import comfy_api.latest, comfy_execution.graph, comfy_execution.progress, nodes  # as main.py does, with execution.py

modules, environment, seen = set(sys.modules), dict(os.environ), []
watched = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.putenv", "os.unsetenv",
           "urllib.", "ftplib.", "http.")
sys.addaudithook(lambda event, arguments: seen.append(event) if event.startswith(watched) else None)
started = time.process_time()
spec = importlib.util.spec_from_file_location("adacache", f"{pack}/__init__.py", submodule_search_locations=[pack])
sys.modules["adacache"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
milliseconds = 1000 * (time.process_time() - started)
assert module.comfy_entrypoint()
new = {name.split(".")[0] for name in set(sys.modules) - modules} - sys.stdlib_module_names
print(json.dumps({"new": sorted(new), "seen": seen, "environment": environment == dict(os.environ),
                  "milliseconds": milliseconds}))
"""


def test_importing_the_pack_loads_nothing_new_and_touches_nothing(unpacked, comfyui_path, tmp_path, record_property):
    pack = shutil.copytree(unpacked, tmp_path / "adacache")
    compileall.compile_dir(pack, quiet=1)  # as on every start but the first
    output = run([sys.executable, "-c", IMPORT, str(comfyui_path), str(pack)], tmp_path)
    result = json.loads(output.splitlines()[-1])
    assert result["new"] == ["adacache"], "torch, numpy and the others must be those that ComfyUI has loaded anyway"
    assert result["seen"] == []
    assert result["environment"], "the environment was changed"
    # Not asserted, as times differ by machine: the aim is 100 ms.
    record_property("import_milliseconds", round(result["milliseconds"]))
    print(f"Importing the pack took {result['milliseconds']:.0f} ms of processor time")
