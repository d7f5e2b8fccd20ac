"""AdaCache against what a user could pick instead, on the same weights, prompts and seeds, in one run.

    python -m benchmarks.bench --short               # ten minutes on two cores
    python -m benchmarks.bench                       # everything; goes on where it stopped
    python -m benchmarks.bench --runner diffusers    # one of the two runners

Every scene is sampled uncached and then with every method, so that a pair of timings is minutes apart at most.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from demo.comfyui import REPOSITORY

from . import readme
from .comfyui_runner import ComfyUIRunner, Sampled
from .diffusers_runner import DiffusersRunner
from .quality import compare
from .settings import (
    Sampling,
    Setting,
    comfyui_settings,
    diffusers_settings,
    headline_settings,
    scenes,
    schedule_settings,
    token_settings,
    uncached,
)

WEIGHTS = REPOSITORY / "demo" / "weights"
MODELS = ("adacache_demo_dit", "adacache_narrow_dit")  # the second one so that nothing is tuned to one network
RESULTS = Path(__file__).parent / "results"
RUNNERS = ("comfyui", "diffusers")
SHORT_SCENES, SCENES = 4, 48
SAMPLINGS = (
    Sampling(),
    Sampling(steps=20),
    Sampling(steps=50),
    Sampling(steps=100),
    Sampling(sampler="uni_pc"),
    Sampling(shift=5.0),
    Sampling(shift=8.0),
    Sampling(cfg=1.0),
    Sampling(cfg=6.0),
)
# What makes a line of its own in the plot; the other parts of a setting are what a line goes along.
VARIANTS = ("hold", "forecast", "order 1", "order 2", "lite", "TaylorSeer", "bf16")
# One video decodes in as long as it takes to sample, more at once in a third of that each (on a CPU).
DECODED_AT_ONCE = 3
Record = dict[str, Any]


class Records:
    """Finished samples, one a line, so that a run goes on where it stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.all: list[Record] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self._done = {self._key(record) for record in self.all}

    @staticmethod
    def _key(record: Record) -> str:
        return json.dumps([record[name] for name in ("runner", "model", "sampling", "method", "setting", "seed")])

    def missing(self, facts: Record) -> bool:
        """Whether there is no record of this sample yet."""
        return self._key(facts) not in self._done

    def add(self, record: Record) -> None:
        """Keep a record, on disk at once."""
        self.all.append(record)
        self._done.add(self._key(record))
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def measure(
    runner: ComfyUIRunner | DiffusersRunner,
    sampling: Sampling,
    settings: list[Setting],
    count: int,
    records: Records,
    say: Callable[[str], None],
) -> None:
    """Sample ``count`` scenes with all settings."""
    for number, (scene, seed) in enumerate(scenes(count)):
        facts = {"runner": runner.name, "model": runner.model, "sampling": asdict(sampling), "seed": seed}
        todo = [
            setting
            for setting in settings
            if records.missing({**facts, "method": setting.method, "setting": setting.label})
        ]
        if not todo:
            continue
        if number == 0:
            runner.sample(scene, seed, Sampling(steps=2), uncached(todo[0]))  # one-off work belongs to nobody's time
        plain: dict[Setting, Sampled] = {}
        for start in range(0, len(todo), DECODED_AT_ONCE):
            wanted = todo[start : start + DECODED_AT_ONCE]
            batch: dict[Setting, Sampled] = {}
            for setting in wanted:
                base = uncached(setting)
                if base not in plain:
                    plain[base] = runner.sample(scene, seed, sampling, base)
                batch[base] = plain[base]  # beside what is compared with it: another batch may round differently
                batch[setting] = runner.sample(scene, seed, sampling, setting)
            frames = runner.decode(torch.cat([sampled.latent for sampled in batch.values()]))
            videos = dict(zip(batch, frames, strict=True))
            for setting in wanted:
                sampled, base = batch[setting], uncached(setting)
                records.add(
                    {
                        **facts,
                        "method": setting.method,
                        "setting": setting.label,
                        "motion": scene.motion,
                        "computed_steps": sampled.computed_steps,
                        "seconds": sampled.seconds,
                        "uncached_seconds": plain[base].seconds,
                        "cache_bytes": sampled.cache_bytes,
                        **compare(videos[setting], videos[base]),
                    }
                )
        say(f"{runner.name}, {sampling}: scene {number + 1} of {count}, {len(todo)} methods")


def row(records: list[Record]) -> Record:
    """One row of the table: the same method, setting, model and sampling over many scenes."""
    first = records[0]
    values = {name: [record[name] for record in records] for name in ("psnr", "ssim", "computed_steps")}
    worst = sorted(values["psnr"])[: max(1, round(len(records) / 10))]
    # Still scenes have no motion to lose.
    moving = [record["motion_ratio"] for record in records if record["motion"] != "still"]
    return {
        "runner": first["runner"],
        "method": first["method"],
        "setting": first["setting"],
        "model": first["model"],
        **first["sampling"],
        "computed_steps": statistics.mean(values["computed_steps"]),
        "speedup": statistics.median(record["uncached_seconds"] / record["seconds"] for record in records),
        "psnr_mean": statistics.mean(values["psnr"]),
        "psnr_worst_decile": statistics.mean(worst),
        "psnr_fast_motion": statistics.mean([r["psnr"] for r in records if r["motion"] == "fast"] or [float("nan")]),
        "ssim_mean": statistics.mean(values["ssim"]),
        "temporal_error": statistics.mean(record["temporal_error"] for record in records),
        "motion_ratio": statistics.mean(moving) if moving else None,
        "cache_bytes": first["cache_bytes"],
        "videos": len(records),
    }


def rows(records: list[Record]) -> list[Record]:
    """All rows, ours first, by speedup."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[json.dumps([record[k] for k in ("runner", "model", "sampling", "method", "setting")])].append(record)
    return sorted(
        map(row, groups.values()), key=lambda r: (r["runner"], r["model"], str(r["steps"]), r["computed_steps"])
    )


def table(found: list[Record]) -> str:
    """Rows as Markdown."""
    columns: readme.Columns = {
        "runner": lambda r: r["runner"],
        "model": readme.model_name,
        "sampling": lambda r: str(readme.sampling_of(r)),
        "method": lambda r: r["method"],
        "setting": lambda r: r["setting"],
        "steps": lambda r: f"{r['computed_steps']:.1f} of {r['steps']}",
        "speedup": lambda r: f"{r['speedup']:.2f}x",
        "PSNR dB": lambda r: f"{r['psnr_mean']:.1f}",
        "worst tenth": lambda r: f"{r['psnr_worst_decile']:.1f}",
        "SSIM": lambda r: f"{r['ssim_mean']:.3f}",
        "motion": lambda r: f"{r['motion_ratio'] or 0:.2f}",
        "cache KiB": lambda r: "" if r["cache_bytes"] is None else f"{r['cache_bytes'] / 1024:.0f}",
        "videos": lambda r: str(r["videos"]),
    }
    return "\n".join(readme.markdown(found, columns))


def line_of(row: Record) -> str | None:
    """The plot's line that a row belongs to; None for parts of the pack alone, which the tables show."""
    method, setting = row["method"], row["setting"]
    if method == "token refresh":
        return None
    if method == "adacache":
        if setting.startswith("paper-"):
            return None if "MoReg" in setting else "adacache, the paper's presets"
        return method if setting.endswith(" computes") or " " not in setting else None
    return ", ".join([method, *(part for part in setting.split(", ") if part in VARIANTS)])


def plot(found: list[Record], folder: Path) -> None:
    """Mean PSNR against speedup, a line for every method and a picture for every runner, at the default sampling."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    paired = pyplot.get_cmap("tab20").colors  # a dark and a light one in turn
    runners: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for r in found:
        line = line_of(r)
        if line and r["model"] == MODELS[0] and readme.sampling_of(r) == Sampling():
            runners[r["runner"]][line].append(r)
    for runner, methods in runners.items():
        figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
        axes.set_prop_cycle(color=paired[::2] + paired[1::2])
        for method, points in sorted(methods.items()):
            points.sort(key=lambda r: r["speedup"])
            style = "-" if method == "adacache" else "--"
            axes.plot([r["speedup"] for r in points], [r["psnr_mean"] for r in points], style, marker="o", label=method)
        axes.set(xlabel="wall-clock speedup", ylabel="mean PSNR of the video, dB", title=f"{runner}: {Sampling()}")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside right upper")
        figure.savefig(folder / f"{runner}.png", dpi=120)
        pyplot.close(figure)


def machine() -> str:
    """The hardware and software, for the results."""
    threads, cores = torch.get_num_threads(), os.cpu_count()
    cpu = f"{cores}-core CPU" if threads == cores else f"{threads} of {cores} CPU cores"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    return f"{device}, {platform.machine()}, PyTorch {torch.__version__}"


def publish(records: list[Record], folder: Path) -> None:
    """``latest.json``, ``latest.md`` and the plots; and the README's numbers, where these are the committed results."""
    found = rows(records)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.json").write_text(json.dumps({"machine": machine(), "rows": found}, indent=1) + "\n")
    (folder / "latest.md").write_text(f"{machine()}\n\n{table(found)}\n")
    plot(found, folder)
    if folder == RESULTS:
        readme.write()


def plans(runner: str, model: str, short: bool) -> Iterator[tuple[Sampling, list[Setting]]]:
    """What is sampled, most wanted first: everything at the default sampling, the schedule at all others."""
    settings = {"comfyui": comfyui_settings, "diffusers": diffusers_settings}[runner]
    if model == MODELS[0] or runner == "diffusers":
        yield Sampling(), list(settings(Sampling(), short=short))
    if runner == "comfyui" and not short:
        yield from ((sampling, list(schedule_settings(sampling))) for sampling in SAMPLINGS)
        yield Sampling(), list(token_settings(Sampling()))
        yield Sampling(steps=100), list(headline_settings(Sampling(steps=100)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few scenes, the default sampling, fewer rows")
    parser.add_argument("--scenes", type=int, help=f"prompts and seeds, default {SCENES}, short {SHORT_SCENES}")
    parser.add_argument("--runner", choices=RUNNERS, action="append", help="default: both")
    parser.add_argument("--model", choices=MODELS, action="append", help="default: both, short the first")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "output" / "bench", help="finished samples")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{(time.monotonic() - started) / 60:6.1f} min  {text}", flush=True)

    records = Records(options.work / "samples.jsonl")
    count = options.scenes or (SHORT_SCENES if options.short else SCENES)
    for model in options.model or (MODELS[:1] if options.short else MODELS):
        weights = WEIGHTS / f"{model}.safetensors"
        comfyui = ComfyUIRunner(weights, WEIGHTS / "adacache_demo_vae.safetensors")
        for name in options.runner or RUNNERS:
            runner = comfyui if name == "comfyui" else DiffusersRunner(weights, comfyui)
            for sampling, settings in plans(name, model, options.short):
                measure(runner, sampling, settings, count, records, say)
                publish(records.all, options.out)  # also where a long run is ended early
    print(table(rows(records.all)))


if __name__ == "__main__":
    main()
