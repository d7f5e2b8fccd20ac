"""`make demo`: queues the shipped workflow on a real ComfyUI server, without and with AdaCache, and compares.

python -m demo.demo                # results under output/demo/
python -m demo.demo --gpu          # on the GPU, if ComfyUI finds one
"""

from __future__ import annotations

import argparse
import io
import json
import math
import signal
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import requests
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.metrics import structural_similarity

from demo.comfyui import REPOSITORY, ComfyError, ComfyServer, Event, PromptRun, default_models
from demo.workflow import ALWAYS, BYPASSED, Json, WorkflowError, nodes_of_type, to_prompt, with_mode, with_widget

WORKFLOW = REPOSITORY / "workflows" / "AdaCache Demo Without a GPU.json"
OUTPUT = REPOSITORY / "output" / "demo"
# No prompt follows itself, so ComfyUI's execution cache, which holds one prompt, never serves the sampler.
METHODS = ("baseline", "balanced", "fast")
ROUNDS = 2
FRAMES_NODE, CHART_NODE = "adacache_demo_frames", "adacache_demo_chart"
FILES = ("baseline.mp4", "cached.mp4", "side_by_side.mp4", "chart.png", "report.json", "summary.json")

Frames = NDArray[np.uint8]


class DemoError(Exception):
    """The demo ran, but not as it should."""


@dataclass(frozen=True)
class Result:
    """One prompt's outcome: frames [F, H, W, 3]."""

    method: str
    sampler_seconds: float
    prompt_seconds: float
    report: Json
    frames: Frames
    video: bytes
    chart: bytes


@dataclass(frozen=True)
class Comparison:
    """A cached result against the baseline of the same round."""

    total_steps: int
    computed_steps: int
    cached_seconds: float
    speedup: float
    cached_prompt_seconds: float
    prompt_speedup: float
    psnr_db: float | None
    ssim: float
    cache_bytes: int


# --- Running ---------------------------------------------------------------------------------------------------------


def prompt_of(method: str, workflow: Json, object_info: Json) -> Json:
    """The workflow as a prompt: AdaCache bypassed for the baseline, else with the preset; and lossless pictures."""
    if method == "baseline":
        workflow = with_mode(workflow, "AdaCache", BYPASSED)
    else:
        workflow = with_mode(workflow, "AdaCache", ALWAYS)
        workflow = with_widget(workflow, "AdaCache", "preset", method, object_info)
    prompt = to_prompt(workflow, object_info)
    images = [node_id(prompt, "VAEDecode"), 0]
    inputs = {"images": images, "filename_prefix": "adacache_demo_frames/frame"}
    prompt[FRAMES_NODE] = {"class_type": "SaveImage", "inputs": inputs}
    chart = {"images": [node_id(prompt, "AdaCacheInspector"), 2]}
    prompt[CHART_NODE] = {"class_type": "PreviewImage", "inputs": chart}
    return prompt


def node_id(prompt: Json, class_type: str) -> str:
    """The id of the only node of a type.

    Raises:
        DemoError: if there is none, or more than one.
    """
    ids = [key for key, node in prompt.items() if node["class_type"] == class_type]
    if len(ids) != 1:
        raise DemoError(f"The demo's workflow needs exactly one running {class_type} node; it has {len(ids)}.")
    return ids[0]


def run_method(server: ComfyServer, method: str, round_number: int, workflow: Json, object_info: Json) -> Result:
    """Queues the workflow, shows its progress, and collects what it made."""
    prompt = prompt_of(method, workflow, object_info)
    sampler = node_id(prompt, "KSampler")
    progress = Progress(f"{method} ({round_number} of {ROUNDS})", prompt)
    prompt_id = server.queue(prompt)
    events = []
    for event in server.wait(prompt_id, seconds=1800):
        events.append(event)
        progress.show(event)
    run = server.finish(prompt_id, events)
    if sampler not in run.executed:
        raise DemoError(f"The sampler of {method} did not run: ComfyUI served it from its cache. Nothing was measured.")
    progress.done(run.node_seconds(sampler))
    return collect(server, method, run, prompt)


def collect(server: ComfyServer, method: str, run: PromptRun, prompt: Json) -> Result:
    """Fetches the files of a finished prompt from the server."""
    reports = ui(run, node_id(prompt, "AdaCacheInspector"), "adacache")
    pictures = [server.download(image) for image in ui(run, FRAMES_NODE, "images")]
    return Result(
        method=method,
        sampler_seconds=run.node_seconds(node_id(prompt, "KSampler")),
        prompt_seconds=run.seconds,
        report=reports[0],
        frames=np.stack([np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in pictures]),
        video=server.download(ui(run, node_id(prompt, "SaveVideo"), "images")[0]),
        chart=server.download(ui(run, CHART_NODE, "images")[0]),
    )


def ui(run: PromptRun, node: str, key: str) -> list[Any]:
    """What a node showed under a key, at least one item."""
    shown = run.outputs.get(node, {})
    if not shown.get(key):
        raise DemoError(f"Node {node} showed no {key!r}; it showed {sorted(shown) or 'nothing'}.")
    return shown[key]


class Progress:
    """One line per prompt that follows the sampler: redrawn on a terminal, else printed every ten steps."""

    def __init__(self, label: str, prompt: Json) -> None:
        self._label, self._prompt = label, prompt
        self._started, self._shown = time.monotonic(), 0
        self._live = sys.stdout.isatty()

    def show(self, event: Event) -> None:
        if event.type == "executing" and event.data["node"] and self._live:
            self._print(self._prompt[event.data["node"]]["class_type"])
        elif event.type == "progress_state":
            for key, state in event.data["nodes"].items():
                if self._prompt[key]["class_type"] == "KSampler" and state["state"] == "running":
                    self._step(int(state["value"]), int(state["max"]))

    def _step(self, step: int, steps: int) -> None:
        if step <= self._shown or not (self._live or step // 10 > self._shown // 10):  # events may skip steps
            return
        self._shown = step
        self._print(f"step {step:3d} of {steps}")

    def done(self, seconds: float) -> None:
        self._print(f"sampled in {seconds:.2f} s")
        if self._live:
            print(flush=True)

    def _print(self, text: str) -> None:
        elapsed = time.monotonic() - self._started
        line = f"  {self._label:20} {text:24} {elapsed:6.1f} s"
        print(f"\r{line}" if self._live else line, end="" if self._live else "\n", flush=True)


# --- Measuring -------------------------------------------------------------------------------------------------------


def psnr(frames: Frames, reference: Frames) -> float | None:
    """Peak signal-to-noise ratio over a whole clip, in dB; None if the clips are equal."""
    error = np.mean((frames.astype(np.float64) - reference.astype(np.float64)) ** 2)
    return 10 * math.log10(255**2 / error) if error else None


def ssim(frames: Frames, reference: Frames) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window, sigma 1.5), the mean over frames."""
    options: dict[str, Any] = {"channel_axis": 2, "data_range": 255, "gaussian_weights": True, "sigma": 1.5}
    pairs = zip(frames, reference, strict=True)
    return float(np.mean([structural_similarity(a, b, use_sample_covariance=False, **options) for a, b in pairs]))


def compare(cached: Result, baseline: Result) -> Comparison:
    """Speed and fidelity of a cached result."""
    if cached.frames.shape != baseline.frames.shape:
        raise DemoError(f"{cached.method} made {cached.frames.shape} frames, the baseline {baseline.frames.shape}.")
    return Comparison(
        total_steps=cached.report["total_steps"],
        computed_steps=cached.report["computed_steps"],
        cached_seconds=cached.sampler_seconds,
        speedup=baseline.sampler_seconds / cached.sampler_seconds,
        cached_prompt_seconds=cached.prompt_seconds,
        prompt_speedup=baseline.prompt_seconds / cached.prompt_seconds,
        psnr_db=psnr(cached.frames, baseline.frames),
        ssim=ssim(cached.frames, baseline.frames),
        cache_bytes=cached.report["cache_bytes"],
    )


# --- Showing ---------------------------------------------------------------------------------------------------------


def table(baseline: Result, comparisons: dict[str, Comparison]) -> str:
    """The comparison as text."""
    header = ("method", "computed", "skipped", "sampler s", "speedup", "prompt s", "PSNR dB", "SSIM", "cache")
    total = next(iter(comparisons.values())).total_steps
    times = f"{baseline.sampler_seconds:.2f}", "1.00x", f"{baseline.prompt_seconds:.2f}"
    rows = [header, ("baseline", str(total), "0", *times, "-", "-", "-")]
    for method, c in comparisons.items():
        times = f"{c.cached_seconds:.2f}", f"{c.speedup:.2f}x", f"{c.cached_prompt_seconds:.2f}"
        fidelity = "equal" if c.psnr_db is None else f"{c.psnr_db:.2f}", f"{c.ssim:.4f}"
        steps = str(c.computed_steps), str(c.total_steps - c.computed_steps)
        rows.append((method, *steps, *times, *fidelity, f"{c.cache_bytes / 2**20:.1f} MiB"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def side_by_side(left: Frames, right: Frames, labels: tuple[str, str], scale: int = 3) -> Frames:
    """Two clips next to each other, enlarged by whole pixels, each under a title bar."""
    bar, gap = 28, 8
    big = [clip.repeat(scale, axis=1).repeat(scale, axis=2) for clip in (left, right)]
    count, height, width, _ = big[0].shape
    canvas = Image.new("RGB", (2 * width + gap, height + bar), (24, 24, 24))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=16)
    for i, label in enumerate(labels):
        draw.text((i * (width + gap) + 8, 4), label, fill=(235, 235, 235), font=font)
    frames = np.repeat(np.asarray(canvas)[None], count, axis=0)
    for i, clip in enumerate(big):
        frames[:, bar:, i * (width + gap) : i * (width + gap) + width] = clip
    return frames


def write_video(path: Path, frames: Frames, rate: float) -> None:
    """Frames [F, H, W, 3] with even sides to an H.264 file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "14"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_results(output: Path, results: dict[str, Result], comparisons: dict[str, Comparison], facts: Json) -> Json:
    """Writes the files of the demo and returns the summary."""
    baseline, cached, main = results["baseline"], results["balanced"], comparisons["balanced"]
    (output / "baseline.mp4").write_bytes(baseline.video)
    (output / "cached.mp4").write_bytes(cached.video)
    (output / "chart.png").write_bytes(cached.chart)
    (output / "report.json").write_text(json.dumps(cached.report, indent=2) + "\n")
    labels = (
        f"Every step: {baseline.sampler_seconds:.1f} s",
        f"AdaCache: {main.cached_seconds:.1f} s ({main.speedup:.2f}x)",
    )
    write_video(output / "side_by_side.mp4", side_by_side(baseline.frames, cached.frames, labels), facts["fps"])
    summary = {
        **facts,
        "baseline_seconds": baseline.sampler_seconds,
        "baseline_prompt_seconds": baseline.prompt_seconds,
        **vars(main),
        "fast": vars(comparisons["fast"]),
        "files": list(FILES),
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


# --- Command line ----------------------------------------------------------------------------------------------------


def load_workflow(path: Path) -> Json:
    """Reads the workflow and checks that the weights it names are there."""
    workflow = json.loads(path.read_text())
    for node_type, kind in (("UNETLoader", "diffusion_models"), ("VAELoader", "vae")):
        weights = default_models()[kind] / nodes_of_type(workflow, node_type)[0]["widgets_values"][0]
        if not weights.is_file():
            raise DemoError(f"{weights} is missing. Restore it with git, or train it: python demo/train.py all")
    return workflow


def run_demo(output: Path, gpu: bool) -> None:
    """The whole demo.

    Raises:
        DemoError, ComfyError, WorkflowError: if anything did not go as it should.
    """
    workflow = load_workflow(WORKFLOW)
    output.mkdir(parents=True, exist_ok=True)
    for name in FILES:  # a failed run shall not leave the results of an earlier one
        (output / name).unlink(missing_ok=True)
    print("Starting ComfyUI ...", flush=True)
    rounds: list[dict[str, Result]] = []
    with ComfyServer(arguments=["--cache-classic"], cpu=not gpu) as server:
        facts = facts_of(server, workflow)
        object_info = server.object_info()
        print(f"ComfyUI {facts['comfyui_version']} on {facts['device']}, model {facts['model']}", flush=True)
        for number in range(1, ROUNDS + 1):
            rounds.append({method: run_method(server, method, number, workflow, object_info) for method in METHODS})
    for method in METHODS:
        # A GPU may choose other kernels the second time; a CPU has no excuse.
        if not gpu and not all(np.array_equal(r[method].frames, rounds[0][method].frames) for r in rounds):
            raise DemoError(f"{method} made different frames from the same seed.")
    last = rounds[-1]
    comparisons = {method: compare(last[method], last["baseline"]) for method in METHODS if method != "baseline"}
    facts["sampler_seconds"] = {method: [r[method].sampler_seconds for r in rounds] for method in METHODS}
    summary = write_results(output, last, comparisons, facts)
    print(f"\n{table(last['baseline'], comparisons)}\n")
    print(f"{last['balanced'].report.get('summary', '')}\n")
    print(f"Times are those of round {ROUNDS} of {ROUNDS}. Written to {output}:\n  {', '.join(summary['files'])}")


def facts_of(server: ComfyServer, workflow: Json) -> Json:
    """What was run, for the summary."""
    stats = server.get("/system_stats")
    seed = nodes_of_type(workflow, "KSampler")[0]["widgets_values"][0]
    return {
        "comfyui_version": stats["system"]["comfyui_version"],
        "pytorch_version": stats["system"]["pytorch_version"],
        "device": stats["devices"][0]["name"],
        "model": nodes_of_type(workflow, "UNETLoader")[0]["widgets_values"][0],
        "workflow": WORKFLOW.relative_to(REPOSITORY).as_posix(),
        "preset": "balanced",
        "seed": seed,
        "fps": nodes_of_type(workflow, "CreateVideo")[0]["widgets_values"][0],
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for the results")
    parser.add_argument("--gpu", action="store_true", help="let ComfyUI use a GPU")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server goes with us
    try:
        run_demo(options.output, options.gpu)
    except (DemoError, ComfyError, WorkflowError, requests.RequestException) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
