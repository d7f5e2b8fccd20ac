"""AdaCache against what a user could pick instead, on the same weights, prompts and seeds, in one run.

    python -m benchmarks.bench --short               # ten minutes on two cores
    python -m benchmarks.bench --main                # 20 steps at cfg 1, two samplers: what most people run
    python -m benchmarks.bench                       # everything; goes on where it stopped
    python -m benchmarks.bench --runner diffusers    # one of the two runners

Every scene is sampled uncached and then with every method, so that a pair of timings is minutes apart at most.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import torch

from demo.comfyui import REPOSITORY
from demo.scenes import Scene

from . import readme, scenes
from .comfyui_runner import ComfyUIRunner, ExpertsRunner
from .diffusers_runner import DiffusersRunner
from .quality import Frames, compare
from .records import Record, Records, rows
from .settings import (
    BEST_FEWER,
    EXPERTS,
    FINER,
    GUIDED,
    MAIN,
    STAGES,
    TWENTY_FIVE,
    UNCACHED,
    Sampling,
    Setting,
    comfyui_settings,
    diffusers_settings,
    finer_settings,
    headline_settings,
    main_settings,
    schedule_settings,
    token_settings,
)

REAL = "adacache_real_dit"
WEIGHTS = REPOSITORY / "demo" / "weights"
VAES = {
    "adacache_demo_dit": "adacache_demo_vae",
    "adacache_narrow_dit": "adacache_demo_vae",  # so that nothing is tuned to one network
    "adacache_hunyuan_dit": "adacache_hunyuan_vae",  # another family, that nothing is tuned to
    REAL: "adacache_real_vae",  # of that family, too, and of clips that look real
    EXPERTS: "adacache_demo_vae",
    STAGES: "adacache_demo_vae",
}
MODELS = tuple(VAES)
# One after the other: two models, and two stages of one.
PAIRS = {EXPERTS: MODELS[:2], STAGES: ("adacache_high_dit", MODELS[0])}
IN_DIFFUSERS = MODELS[:2]
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
TRUTH_STEPS, TRUTH_SAMPLER = 200, "dpmpp_2m"  # 45 dB from 800 steps of Euler, 200 of which are at 36 to 41
# One video decodes in as long as it takes to sample, more at once in a third of that each (on a CPU).
DECODED_AT_ONCE = 5


def file_of(name: str) -> Path:
    """The weights of a diffusion model or a VAE."""
    return WEIGHTS / f"{name}.safetensors"


def runner_of(model: str) -> ComfyUIRunner:
    """One of ``MODELS`` in ComfyUI."""
    vae = file_of(VAES[model])
    if model in PAIRS:
        first, second = PAIRS[model]
        return ExpertsRunner((file_of(first), file_of(second)), vae, model)
    return ComfyUIRunner(file_of(model), vae)


def videos_of(model: str, of_set: str, count: int) -> list[scenes.Video]:
    """Videos of a set, as one of ``MODELS`` is asked for them."""
    return scenes.real(count) if model == REAL else scenes.SETS[of_set](count)


def measure(
    runner: ComfyUIRunner | DiffusersRunner,
    sampling: Sampling,
    settings: list[Setting],
    videos: list[scenes.Video],
    of_set: str,
    records: Records,
    say: Callable[[str], None],
) -> None:
    """Sample the videos of a set, by name ``of_set``, with all settings."""
    for number, (scene, seed) in enumerate(videos):
        facts: Record = {"set": of_set, "seed": seed, "runner": runner.name, "model": runner.model}
        facts["sampling"] = asdict(sampling)
        todo = [
            setting
            for setting in settings
            if records.missing({**facts, "method": setting.method, "setting": setting.label})
        ]
        if not todo:
            continue
        if number == 0:
            runner.sample(scene, seed, Sampling(steps=2), UNCACHED)  # one-off work belongs to nobody's time
        converged = truth(runner, scene, seed, sampling)
        plain = runner.sample(scene, seed, sampling, UNCACHED)
        for start in range(0, len(todo), DECODED_AT_ONCE):
            wanted = todo[start : start + DECODED_AT_ONCE]
            batch = {UNCACHED: plain}  # beside what is compared with it: another batch may round differently
            for setting in wanted:
                if setting != UNCACHED:
                    batch[setting] = runner.sample(scene, seed, sampling, setting)
            decoded = runner.decode(torch.cat([sampled.latent for sampled in batch.values()]))
            frames = dict(zip(batch, decoded, strict=True))
            for setting in wanted:
                sampled = batch[setting]
                records.add(
                    {
                        **facts,
                        "method": setting.method,
                        "setting": setting.label,
                        "motion": scene.motion,
                        "computed_steps": sampled.computed_steps,
                        "seconds": sampled.seconds,
                        "uncached_seconds": plain.seconds,
                        "cache_bytes": sampled.cache_bytes,
                        "truth_psnr": None if converged is None else compare(frames[setting], converged)["psnr"],
                        **compare(frames[setting], frames[UNCACHED]),
                    }
                )
        say(f"{runner.name}, {sampling}: scene {number + 1} of {len(videos)}, {len(todo)} methods")


def truth(
    runner: ComfyUIRunner | DiffusersRunner, scene: Scene | scenes.Words, seed: int, sampling: Sampling
) -> Frames | None:
    """The converged video, where people sample most; None elsewhere, since it takes as long as ten others."""
    if sampling not in (*MAIN, *FINER):
        return None
    return _converged(runner, scene, seed, replace(sampling, steps=TRUTH_STEPS, sampler=TRUTH_SAMPLER))


@lru_cache(maxsize=SCENES)  # the two main settings differ in the sampler only
def _converged(
    runner: ComfyUIRunner | DiffusersRunner, scene: Scene | scenes.Words, seed: int, finest: Sampling
) -> Frames:
    frames: Frames = runner.decode(runner.sample(scene, seed, finest, UNCACHED).latent)[0]
    return frames


def table(found: list[Record]) -> str:
    """Rows as Markdown."""
    columns: readme.Columns = {
        "set": lambda r: r["set"],
        "runner": lambda r: r["runner"],
        "model": readme.model_name,
        "sampling": lambda r: str(readme.sampling_of(r)),
        "method": lambda r: r["method"],
        "setting": lambda r: r["setting"],
        "steps": lambda r: f"{r['computed_steps']:.1f} of {r['steps']}",
        "speedup": lambda r: f"{r['speedup']:.2f}x",
        "PSNR dB": lambda r: f"{r['psnr_mean']:.1f}",
        "worst tenth": lambda r: f"{r['psnr_worst_decile']:.1f}",
        "PSNR to the converged": lambda r: "" if r["truth_psnr"] is None else f"{r['truth_psnr']:.1f}",
        "SSIM": lambda r: f"{r['ssim_mean']:.3f}",
        "motion": lambda r: f"{r['motion_ratio'] or 0:.2f}",
        "cache KiB": lambda r: "" if r["cache_bytes"] is None else f"{r['cache_bytes'] / 1024:.0f}",
        "videos": lambda r: str(r["videos"]),
    }
    return "\n".join(readme.markdown(found, columns))


def line_of(row: Record) -> str | None:
    """The plot's line that a row belongs to; None for parts of the pack alone, which the tables show."""
    method, setting = row["method"], row["setting"]
    if method in ("token refresh", "uncached", "solver", "adacache sampler") or "finer" in setting:
        return None
    if method == "adacache":
        if setting.startswith("paper-"):
            return None if "MoReg" in setting else "adacache, the paper's presets"
        return method if setting.endswith(" computes") or " " not in setting else None
    return f"{method}, {BEST_FEWER}" if setting.endswith(BEST_FEWER) else method


def frontier(rows: list[Record]) -> list[Record]:
    """Of a method's rows those that no other one of it is both faster and closer than, and that skip anything."""
    rows = sorted((row for row in rows if row["computed_steps"] < row["steps"]), key=lambda row: -row["speedup"])
    return [row for i, row in enumerate(rows) if all(row["psnr_mean"] > faster["psnr_mean"] for faster in rows[:i])]


def plot(found: list[Record], folder: Path) -> None:
    """Mean PSNR against speedup, of every method its best settings: a picture for every runner.

    Of the model that looks real where it was measured, since nothing was fitted to it; else of the demo model.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    for runner in RUNNERS:
        panels: dict[Sampling, dict[str, list[Record]]] = {}
        measured = {r["model"] for r in found if r["runner"] == runner}
        model = REAL if REAL in measured else MODELS[0]
        for sampling in (*MAIN, Sampling()):
            lines: dict[str, list[Record]] = defaultdict(list)
            for r in found:
                if (r["runner"], r["model"], readme.sampling_of(r)) == (runner, model, sampling) and line_of(r):
                    lines[str(line_of(r))].append(r)
            if lines:
                panels[sampling] = lines
        if not panels:
            continue
        names = sorted({name for lines in panels.values() for name in lines})
        colors = dict(zip(names, pyplot.get_cmap("tab10").colors * 3, strict=False))
        size = (4.6 * len(panels) + 2.2, 3.8)
        figure, row = pyplot.subplots(1, len(panels), figsize=size, layout="constrained", sharey=True, squeeze=False)
        for axes, (sampling, lines) in zip(row[0], panels.items(), strict=True):
            for name, points in sorted(lines.items()):
                points = frontier(points)
                ours = name == "adacache"
                axes.plot(
                    [r["speedup"] for r in points],
                    [r["psnr_mean"] for r in points],
                    "-" if ours else "--",
                    marker="o",
                    linewidth=3 if ours else 1.5,
                    color=colors[name],
                    label=name,
                )
            axes.set(xlabel="times faster, by the clock", title=str(sampling))
            axes.grid(alpha=0.3)
        row[0][0].set_ylabel("PSNR to the uncached video, dB")
        figure.suptitle(f"model: {readme.model_name({'model': model})}")
        handles = {
            label: handle for axes in row[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles, loc="outside right upper")
        figure.savefig(folder / f"{runner}.png", dpi=100)
        pyplot.close(figure)


def machine() -> str:
    """The hardware and software, for the results."""
    threads, cores = torch.get_num_threads(), os.cpu_count()
    cpu = f"{cores}-core CPU" if threads == cores else f"{threads} of {cores} CPU cores"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    return f"{device}, {platform.machine()}, PyTorch {torch.__version__}"


def publish(records: list[Record], folder: Path) -> None:
    """``latest.json``, ``latest.md`` and the plots; of the committed results docs/numbers.md, too."""
    found = rows(records)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.json").write_text(json.dumps({"machine": machine(), "rows": found}, indent=1) + "\n")
    (folder / "latest.md").write_text(f"{machine()}\n\n{table(found)}\n")
    plot(found, folder)
    if folder == RESULTS:
        readme.write()


def plans(runner: str, model: str, short: bool, only_main: bool) -> Iterator[tuple[Sampling, list[Setting]]]:
    """What is sampled, most wanted first: what people run, peers at the default sampling, other ways of sampling."""
    if runner == "diffusers":
        for sampling in (Sampling(),) if short else (MAIN[1], Sampling()):
            yield sampling, list(diffusers_settings(sampling, short=short))
        return
    if model in PAIRS:
        yield GUIDED, list(main_settings(GUIDED))
        return
    if not short:
        yield from ((sampling, list(main_settings(sampling))) for sampling in (*MAIN, TWENTY_FIVE))
        yield from ((sampling, list(finer_settings(sampling))) for sampling in FINER)
    if only_main:
        return
    if model == MODELS[0]:
        yield Sampling(), list(comfyui_settings(Sampling(), short=short))
    if not short:
        yield from ((sampling, list(schedule_settings(sampling))) for sampling in SAMPLINGS)
        if model == MODELS[0]:
            yield Sampling(), list(token_settings(Sampling()))
            yield Sampling(steps=100), list(headline_settings(Sampling(steps=100)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few scenes, the default sampling, fewer rows")
    parser.add_argument("--main", action="store_true", help="only what most people run")
    parser.add_argument("--scenes", type=int, help=f"prompts and seeds, default {SCENES}, short {SHORT_SCENES}")
    parser.add_argument("--runner", choices=RUNNERS, action="append", help="default: both")
    parser.add_argument("--model", choices=MODELS, action="append", help="default: all, short the first")
    parser.add_argument("--set", choices=tuple(scenes.SETS), default="test", help="dev: what constants are fitted on")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "output" / "bench", help="finished samples")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{(time.monotonic() - started) / 60:6.1f} min  {text}", flush=True)

    records = Records(options.work / "samples.jsonl")
    count = options.scenes or (SHORT_SCENES if options.short else SCENES)
    for model in options.model or (MODELS[:1] if options.short else MODELS):
        if model == REAL and options.set != "test":
            continue  # nothing is fitted to it
        videos, comfyui = videos_of(model, options.set, count), runner_of(model)
        for name in ("comfyui",) if options.main else options.runner or RUNNERS:
            if name == "diffusers" and model not in IN_DIFFUSERS:
                continue
            runner = comfyui if name == "comfyui" else DiffusersRunner(file_of(model), comfyui)
            for sampling, settings in plans(name, model, options.short, options.main):
                measure(runner, sampling, settings, videos, options.set, records, say)
                publish(records.all, options.out)  # also where a long run is ended early
    print(table(rows(records.all)))


if __name__ == "__main__":
    main()
