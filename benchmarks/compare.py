"""Two versions of the pack, and fewer steps instead, on the same videos in one run.

    python -m benchmarks.compare --other PATH_TO_OTHER_CHECKOUT --models demo narrow --videos 12

Goes on where it stopped: samples are kept, those of a checkout as long as its code is what it was. Latents are compared
with those of the uncached run. One process samples at a time, on one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from demo.comfyui import REPOSITORY, find_comfyui

from . import scenes
from .quality import EQUAL_DB
from .settings import Sampling

WEIGHTS = REPOSITORY / "demo" / "weights"
VERSIONS = ("other", "this")
METHODS = ("fewer", *VERSIONS)
Json = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One way of sampling, with as many steps computed; what is compared with it is computed at every step."""

    sampling: Sampling
    computes: int

    def __str__(self) -> str:
        s = self.sampling
        return f"{s.sampler}, {self.computes} of {s.steps}, cfg {s.cfg:g}, shift {s.shift:g}"


def rows() -> list[Row]:
    """The settings that people run, and those at which skipping is hardest."""

    def of(samplers: str, computes: tuple[int, ...], steps: int, cfg: float, shift: float) -> list[Row]:
        return [Row(Sampling(steps, name, shift, cfg), count) for name in samplers.split() for count in computes]

    return [
        *of("euler res_multistep", (10, 8), 20, 1.0, 5.0),
        *of("euler res_multistep dpmpp_2m", (13, 10), 30, 3.0, 3.0),
        *of("euler dpmpp_2m", (13,), 30, 6.0, 3.0),
        *of("uni_pc", (10,), 20, 1.0, 5.0),
        *of("er_sde euler_ancestral dpmpp_2m_sde", (10,), 20, 3.5, 5.0),
        *of("euler", (17,), 50, 3.0, 8.0),
    ]


class Checkout:
    """A version of the pack, sampling in a process of its own from the first job on.

    Attributes:
        version: a hash of the code that decides what it samples.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._process: subprocess.Popen[str] | None = None
        runner = folder / "benchmarks" / "comfyui_runner.py"
        if not runner.exists():
            raise SystemExit(f"{folder} must be a checkout of AdaCache; it holds no benchmarks/comfyui_runner.py.")
        code = [runner, *(path for part in ("adacache_core", "nodes") for path in (folder / part).rglob("*.py"))]
        self.version = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(code))).hexdigest()[:12]

    def __enter__(self) -> Checkout:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def sample(self, job: Json) -> None:
        """Do a job of ``worker``."""
        if self._process is None:
            environment = {**os.environ, "COMFYUI_PATH": str(find_comfyui()), "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("worker.py"))],
                cwd=self._folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            status = self._process.wait()
            raise SystemExit(f"Sampling in {self._folder} ended with exit status {status}, see above. The job: {job}")


class Samples:
    """Samples by what they are of, on disk, made where they are missing."""

    def __init__(self, folder: Path, checkouts: dict[str, Checkout]) -> None:
        self._folder, self._checkouts = folder, checkouts
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, model: str, video: scenes.Video, row: Row, method: str) -> Json:
        """``latent``, ``seconds``, ``computed_steps`` and ``bytes`` of one sample."""
        (scene, seed), sampling, options = video, row.sampling, {}
        if method == "fewer":
            sampling = replace(sampling, steps=row.computes)
        elif method in VERSIONS:
            options = {"preset": "target", "computes": row.computes}
        checkout = self._checkouts[method if method in VERSIONS else "this"]
        job = {
            "weights": str(WEIGHTS / f"adacache_{model}_dit.safetensors"), "scene": asdict(scene), "seed": seed,
            "sampling": asdict(sampling), "method": "adacache" if options else "uncached", "options": options,
        }  # fmt: skip
        key = json.dumps([job, checkout.version if options else None])
        file = self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.pt"
        if not file.exists():
            part = file.with_suffix(".part")
            checkout.sample({**job, "file": str(part)})
            part.rename(file)
        found: Json = torch.load(file)
        return found


def decibels(latent: Tensor, reference: Tensor) -> dict[str, float]:
    """``signal_to_error``, and ``psnr`` over the reference's range, both in dB; equal latents have ``EQUAL_DB``."""
    reference = reference.double()
    error = (latent.double() - reference).square().mean().item()
    signal, peak = reference.square().mean().item(), (reference.max() - reference.min()).item() ** 2

    def of(power: float) -> float:
        return min(10 * math.log10(power / error), EQUAL_DB) if error else EQUAL_DB

    return {"signal_to_error": of(signal), "psnr": of(peak)}


def measure(samples: Samples, model: str, row: Row, video: scenes.Video) -> list[Json]:
    """One record a method: as far as it is from the uncached video, and what it took."""
    uncached = samples.get(model, video, row, "uncached")
    found = []
    for method in METHODS:
        sampled = samples.get(model, video, row, method)
        facts = {"model": model, "row": str(row), "method": method, "seed": video[1], "scene": asdict(video[0])}
        took = {name: sampled[name] for name in ("seconds", "computed_steps", "bytes")}
        found.append({**facts, **took, **decibels(sampled["latent"], uncached["latent"])})
    return found


def summary(records: list[Json]) -> list[Json]:
    """One entry for every model and row: of each method mean and worst, and ``gain``, this one's over the other's."""
    groups: dict[tuple[str, str], list[Json]] = {}
    for record in records:
        groups.setdefault((record["model"], record["row"]), []).append(record)
    found = []
    for (model, row), group in groups.items():
        entry: Json = {"model": model, "row": row, "videos": len({record["seed"] for record in group})}
        for method in METHODS:
            of_method = [record for record in group if record["method"] == method]
            entry[method] = {"computed_steps": statistics.mean(record["computed_steps"] for record in of_method)}
            for measure in ("signal_to_error", "psnr"):
                values = [record[measure] for record in of_method]
                entry[method][measure] = {"mean": statistics.mean(values), "worst": min(values), "each": values}
        means = {method: entry[method]["signal_to_error"]["mean"] for method in METHODS}
        entry["gain"], entry["ahead_of_fewer"] = means["this"] - means["other"], means["this"] - means["fewer"]
        found.append(entry)
    return found


def table(found: list[Json]) -> str:
    """The summary as Markdown: signal to error, then PSNR of latents."""
    lines = []
    for measure, title in (("signal_to_error", "Signal to error"), ("psnr", "PSNR of latents over their range")):
        lines += [
            f"{title} in dB, mean (worst); distance to the uncached run.",
            "",
            "| model | computed of steps | other | this | gain | computed, other and this | fewer steps | videos |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for entry in found:
            other, this, fewer = (entry[method][measure] for method in ("other", "this", "fewer"))
            cells = [f"{of['mean']:.1f} ({of['worst']:.1f})" for of in (other, this, fewer)]
            computed = " and ".join(f"{entry[method]['computed_steps']:.2f}" for method in VERSIONS)
            lines.append(
                f"| {entry['model']} | {entry['row']} | {cells[0]} | {cells[1]} | {this['mean'] - other['mean']:+.1f} "
                f"({this['worst'] - other['worst']:+.1f}) | {computed} | {cells[2]} | {entry['videos']} |"
            )
        lines.append("")
    return "\n".join(lines)


def run(options: argparse.Namespace, checkouts: dict[str, Checkout], say: Callable[[str], None]) -> list[Json]:
    """Sample video after video, writing what there is after each; the table's rows in order."""
    samples = Samples(options.out / "samples", checkouts)
    wanted = [row for row in rows() if options.rows in str(row)]
    versions = {name: checkout.version for name, checkout in checkouts.items()}
    by_place: dict[tuple[int, int], list[Json]] = {}
    found: list[Json] = []
    for number, video in enumerate(scenes.SETS[options.set](options.videos), start=1):
        for place, model in enumerate(options.models):
            for index, row in enumerate(wanted):
                by_place.setdefault((place, index), []).extend(measure(samples, model, row, video))
                say(f"video {number} of {options.videos}, {model}, {row}")
        found = summary([record for place in sorted(by_place) for record in by_place[place]])
        content = {"set": options.set, "versions": versions, "rows": found}
        (options.out / "compare.json").write_text(json.dumps(content, indent=1) + "\n")
        (options.out / "compare.md").write_text(table(found))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="the checkout to compare this one with")
    parser.add_argument("--models", nargs="+", choices=("demo", "narrow"), default=["demo", "narrow"])
    parser.add_argument("--videos", type=int, default=12, help="of each row")
    parser.add_argument("--set", choices=tuple(scenes.SETS), default="test", help="dev: what constants are fitted on")
    parser.add_argument("--rows", default="", help="only rows whose name holds this text")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "output" / "compare")
    options = parser.parse_args()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{(time.monotonic() - started) / 60:6.1f} min  {text}", flush=True)

    with Checkout(options.other) as other, Checkout(REPOSITORY) as this:
        print(table(run(options, {"other": other, "this": this}, say)))


if __name__ == "__main__":
    main()
