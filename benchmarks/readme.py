"""Writes the numbers of docs/numbers.md from the results, so that it claims nothing else."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .settings import BEST_FEWER, GUIDED, MAIN, TWENTY_FIVE, Sampling, equal_computes

ROOT = Path(__file__).resolve().parent.parent
NUMBERS, RESULTS = ROOT / "docs" / "numbers.md", ROOT / "benchmarks" / "results"
START, END = "<!-- numbers: written by `make bench` -->", "<!-- end of numbers -->"
PAPER = tuple(f"{preset}{moreg}" for preset in ("paper-slow", "paper-fast") for moreg in ("", ", MoReg"))
SHOWN = {
    "adacache": ("quality", "balanced", "fast", *PAPER),
    "lazycache": ("threshold 0.1", "threshold 0.2", "threshold 0.5"),
    "easycache": ("threshold 0.1", "threshold 0.2", "threshold 0.5"),
    "fixed": ("15 computes", "12 computes", "10 computes"),
    "fewer": ("15 steps", "12 steps", "10 steps"),
}
MOST_OF_HALF = 0.575  # what blocks of the peers compute on a skip included
NAMES = {
    "uncached": "uncached",
    "adacache sampler": "AdaCache Sampler",
    "solver": "plain sampler",
    "adacache": "**AdaCache**",
    "lazycache": "LazyCache",
    "easycache": "EasyCache",
    "fixed": "every k-th step",
    "fewer": "fewer steps",
    "dbcache": "cache-dit (DBCache)",
    "seacache": "SeaCache",
    "taylorseer": "TaylorSeer",
    "fbcache": "FirstBlockCache",
    "magcache": "MagCache",
    "fastercache": "FasterCache",
    "pab": "PAB",
    "token refresh": "Token Refresh",
}
T = TypeVar("T")
Row = dict[str, Any]
Columns = dict[str, Callable[[Row], str]]


def model_name(row: Row) -> str:
    """``demo`` or ``narrow``."""
    name: str = row["model"]
    return name.removeprefix("adacache_").removesuffix("_dit")


def sampling_of(row: Row) -> Sampling:
    """How a row was sampled."""
    return Sampling(**{name: row[name] for name in asdict(Sampling())})


def markdown(rows: Iterable[T], columns: Mapping[str, Callable[[T], str]]) -> list[str]:
    """A table with one line per row."""
    cells = [[show(row) for show in columns.values()] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (list(columns), ["---"] * len(columns), *cells)]


def of_demo(results: Row, sampling: Sampling) -> list[Row]:
    """Rows of the demo model in ComfyUI, sampled in this way."""
    return [
        row
        for row in results["rows"]
        if row["runner"] == "comfyui" and model_name(row) == "demo" and sampling_of(row) == sampling
    ]


def leading_columns(steps: str) -> Columns:
    """What the tables of methods have in common; ``steps`` is the heading of the steps computed."""
    return {
        "method": lambda row: NAMES[row["method"]],
        "setting": lambda row: row["setting"],
        steps: lambda row: f"{row['computed_steps']:.1f} of {row['steps']}",
        "speedup": lambda row: f"{row['speedup']:.2f}x",
    }


def decibels(value: float) -> str:
    """With its unit and one decimal."""
    return f"{value:.1f} dB"


def people(results: Row) -> list[str]:
    """What people run: everything that they could do instead with about half of the steps computed."""
    order = (*MAIN, GUIDED, TWENTY_FIVE)
    groups: dict[Any, dict[Any, Row]] = defaultdict(dict)
    for row in results["rows"]:
        if row["runner"] == "comfyui" and sampling_of(row) in order:
            groups[order.index(sampling_of(row)), row["model"]][row["method"], row["setting"]] = row
    close, far = list[dict[str, str]](), list[dict[str, str]]()
    for _, rows in sorted(groups.items()):
        ours = rows.get(("adacache", "balanced"))
        if ours is None:
            continue
        half = round(ours["steps"] / 2)
        methods = {
            "**AdaCache**": ours,
            "as many plain steps": rows.get(("fewer", f"{half} steps")),
            f"of {BEST_FEWER}": rows.get(("fewer", f"{half} steps, {BEST_FEWER}")),
            "LazyCache": rows.get(("lazycache", "threshold 0.2")),
            "EasyCache": rows.get(("easycache", "threshold 0.2")),
        }
        line = {"sampling": str(sampling_of(ours)), "model": model_name(ours), "videos": str(ours["videos"])}
        close.append(line | _cells(methods, _at))
        if ours["truth_psnr"] is not None:
            far.append(line | _cells({"all steps": rows.get(("uncached", "")), **methods}, _from_converged))
    if not close:
        return []
    worth = [
        "",
        "**What a difference is worth**: PSNR of the same videos to the converged one, 200 steps of DPM++ 2M. What is",
        "as near to it as all steps are is as good, whatever it differs from.",
        "",
    ]
    return [
        "**What people run**, about half of the steps computed, on the test set: PSNR of decoded frames to the",
        f"uncached ones, mean (worst tenth), steps computed, and how much faster it was. {results['machine']}.",
        "",
        *markdown(close, {name: itemgetter(name) for name in close[0]}),
        *([*worth, *markdown(far, {name: itemgetter(name) for name in far[0]})] if far else ()),
    ]


def _cells(methods: Mapping[str, Row | None], show: Callable[[Row], str]) -> dict[str, str]:
    return {name: "" if row is None else show(row) for name, row in methods.items()}


def _at(row: Row) -> str:
    return f"{_mean_and_worst(row)}, {row['computed_steps']:.1f}, {row['speedup']:.2f}x"


def is_finer(row: Row) -> bool:
    """Whether a row is of so many evaluations on the way to the converged video."""
    return (
        row["method"] in ("solver", "adacache sampler")
        or "finer" in row["setting"]
        or (row["method"] == "uncached" and row["setting"] != "")
    )


def in_diffusers(results: Row) -> list[str]:
    """The caches of diffusers and cache-dit at what people run: of each the best setting at about half of the work."""
    rows = [row for row in results["rows"] if row["runner"] == "diffusers" and sampling_of(row) == MAIN[1]]
    if not rows:
        return []
    best: dict[str, Row] = {}
    for row in rows:
        if row["computed_steps"] <= MOST_OF_HALF * row["steps"]:
            old = best.setdefault(row["method"], row)
            best[row["method"]] = max(old, row, key=lambda row: float(row["psnr_mean"]))
    columns: Columns = {
        "method": lambda row: NAMES.get(row["method"], row["method"]),
        "setting": lambda row: row["setting"],
        "work": lambda row: f"{row['computed_steps']:.1f} of {row['steps']}",
        "speedup": lambda row: f"{row['speedup']:.2f}x",
        "PSNR, mean (worst tenth)": _mean_and_worst,
        "videos": lambda row: str(row["videos"]),
    }
    return [
        f"**In diffusers**, with its caches and cache-dit's, demo model, {MAIN[1]}: of each method the setting that is",
        f"closest to the uncached video with {MOST_OF_HALF:.1%} of the work or less, as its blocks' multiplications.",
        "",
        *markdown(sorted(best.values(), key=lambda row: -row["psnr_mean"]), columns),
    ]


def moreg(results: Row) -> list[str]:
    """Plans that follow motion, against plans of as many computes for every video."""
    plans: dict[Any, list[Row]] = defaultdict(list)
    for row in results["rows"]:
        if (row["runner"], row["method"]) == ("comfyui", "adacache") and not is_finer(row):
            plans[_place(row)].append(row)
    pairs = []
    for rows in plans.values():
        same = sorted((row for row in rows if "," not in row["setting"]), key=lambda row: float(row["computed_steps"]))
        for row in rows:
            if row["setting"].endswith(", MoReg"):
                counts, count = [one["computed_steps"] for one in same], row["computed_steps"]
                every = ("psnr_mean", "psnr_worst_decile", "psnr_fast_motion")
                names = [name for name in every if row[name] is not None]
                pairs.append((row, {n: float(np.interp(count, counts, [one[n] for one in same])) for n in names}))
    if not pairs:
        return []

    def change(name: str) -> Callable[[tuple[Row, Row]], str]:
        return lambda pair: f"{pair[1][name]:.1f} to {pair[0][name]:.1f}" if name in pair[1] else "-"

    columns: dict[str, Callable[[tuple[Row, Row]], str]] = {
        "model": lambda pair: model_name(pair[0]),
        "sampling": lambda pair: str(sampling_of(pair[0])),
        "computed": lambda pair: f"{pair[0]['computed_steps']:.1f}",
        "PSNR, mean": change("psnr_mean"),
        "worst tenth": change("psnr_worst_decile"),
        "fast motion": change("psnr_fast_motion"),
        "videos": lambda pair: str(pair[0]["videos"]),
    }
    return [
        "**MoReg with a plan**, on the test set: from as many computes for every video to as many in the mean, by what",
        "moves, in dB; the former interpolated between the counts that were measured.",
        "",
        *markdown(pairs, columns),
    ]


def finer(results: Row) -> list[str]:
    """Evaluations against the distance to the converged video: a column for every method."""
    tables: dict[Any, dict[int, Row]] = defaultdict(lambda: defaultdict(dict))
    videos: dict[Any, int] = {}
    for row in results["rows"]:
        shown = is_finer(row) or row["method"] == "uncached"
        if shown and row["truth_psnr"] is not None and row["runner"] == "comfyui":
            name = NAMES[row["method"]].strip("*") + (", finer" if row["method"] == "adacache" else "")
            if row["method"] == "solver":
                name = row["setting"].partition(", ")[2]
            tables[_place(row)][round(row["computed_steps"])][name] = _from_converged(row)
            if row["method"] == "adacache sampler":
                videos[_place(row)] = row["videos"]
    lines = [
        {"place": place, "evaluations": count, **cells}
        for place in sorted(videos)
        for count, cells in sorted(tables[place].items())
    ]
    if not lines:
        return []
    names = sorted({name for line in lines for name in line} - {"place", "evaluations"}, key=str.lower)
    columns: dict[str, Callable[[Row], str]] = {
        "sampling": lambda line: str(Sampling(*line["place"][1:])),
        "model": lambda line: model_name({"model": line["place"][0]}),
        "videos": lambda line: str(videos[line["place"]]),
        "evaluations": lambda line: str(line["evaluations"]),
        **{name: lambda line, name=name: line.get(name, "") for name in names},
    }
    return [
        "**Finer steps and the AdaCache Sampler**: PSNR to the converged video, mean (worst tenth), of so many",
        "evaluations. Plain samplers stand by name and scheduler; `gits` are levels placed for the model at hand.",
        "",
        *markdown([line for line in lines if line["evaluations"] in (10, 20)], columns),
        "",
        "<details><summary>6 to 50 evaluations</summary>",
        "",
        *markdown(lines, columns),
        "",
        "</details>",
    ]


def _from_converged(row: Row) -> str:
    return "" if row["truth_psnr"] is None else f"{row['truth_psnr']:.1f} ({row['truth_worst']:.1f}) dB"


def methods(results: Row) -> list[str]:
    """Presets, those of the paper among them, and peers at the default sampling, fastest last."""
    sampling = Sampling()
    rows = [row for row in of_demo(results, sampling) if row["setting"] in SHOWN.get(row["method"], ())]
    if not rows:
        return []
    columns: Columns = {
        **leading_columns("steps computed"),
        "PSNR, mean (worst tenth)": _mean_and_worst,
        "SSIM": lambda row: f"{row['ssim_mean']:.3f}",
        "motion kept": lambda row: f"{row['motion_ratio']:.3f}",
        "cache": lambda row: "" if row["cache_bytes"] is None else f"{row['cache_bytes'] / 1024:.0f} KiB",
    }
    return [
        f"**The paper's presets**, which hold, beside plans and peers: demo model, {sampling}, {_videos(rows)}.",
        *_targets(results, sampling),
        "",
        *markdown(sorted(rows, key=lambda row: (-row["computed_steps"], row["method"])), columns),
    ]


def _targets(results: Row, sampling: Sampling) -> list[str]:
    """What a wanted speedup gave."""
    ours = {row["setting"]: row for row in of_demo(results, sampling) if row["method"] == "adacache"}
    found = [(count, ours.get(f"{count} computes")) for count in equal_computes(sampling.steps)]
    given = [f"{row['speedup']:.2f}x of {sampling.steps / count:.1f} wanted" for count, row in found if row]
    return [f"The preset `target` gave {', '.join(given)}."] if given else []


def _videos(rows: Sequence[Row]) -> str:
    """How many, where rows are of several numbers of them."""
    counts = sorted({row["videos"] for row in rows})
    return f"{' to '.join(map(str, counts[:: max(len(counts) - 1, 1)]))} videos"


def schedules(results: Row) -> list[str]:
    """AdaCache's plan against computes at even distances, at equal counts: every model and way of sampling."""
    fixed = {}
    for row in results["rows"]:
        if row["runner"] == "comfyui" and row["method"] == "fixed":
            fixed[_place(row), row["setting"]] = row
    pairs = []
    for row in results["rows"]:
        other = fixed.get((_place(row), row["setting"]))
        if row["runner"] == "comfyui" and row["method"] == "adacache" and other is not None:
            pairs.append({"ours": row, "other": other})
    if not pairs:
        return []

    def gain(pair: Row, name: str) -> float:
        difference: float = pair["ours"][name] - pair["other"][name]
        return difference

    gains = [gain(pair, "psnr_mean") for pair in pairs]
    columns: Columns = {
        "model": lambda pair: model_name(pair["ours"]),
        "sampling": lambda pair: str(sampling_of(pair["ours"])),
        "steps computed": lambda pair: f"{pair['ours']['computed_steps']:.1f}",
        "AdaCache, mean (worst tenth)": lambda pair: _mean_and_worst(pair["ours"]),
        "every k-th step": lambda pair: _mean_and_worst(pair["other"]),
        "gain, mean (worst tenth)": lambda pair: (
            f"{gain(pair, 'psnr_mean'):+.1f} ({gain(pair, 'psnr_worst_decile'):+.1f}) dB"
        ),
        "videos": lambda pair: str(min(pair["ours"]["videos"], pair["other"]["videos"])),
    }
    pairs.sort(key=lambda pair: (_place(pair["ours"]), -pair["ours"]["computed_steps"]))
    return [
        "**The plan.** AdaCache's choice of steps against even distances, both with the forecast, at equal counts:",
        f"{statistics.median(gains):+.1f} dB in the median of {len(gains)} comparisons, "
        f"{min(gains):+.1f} dB in the worst, {max(gains):+.1f} dB in the best.",
        "",
        "<details><summary>All of them</summary>",
        "",
        *markdown(pairs, columns),
        "",
        "</details>",
    ]


def headline(results: Row) -> list[str]:
    """100 steps: the paper's speedup and more."""
    settings = ["21 computes", "14 computes", "21 steps", "14 steps", *PAPER]
    rows = [row for row in of_demo(results, Sampling(steps=100)) if row["setting"] in settings]
    if not rows:
        return []
    columns: Columns = {**leading_columns("steps computed"), "PSNR, mean (worst tenth)": _mean_and_worst}
    return [
        f"**At 100 steps**, {_videos(rows)}: the paper's 4.7x and 7x in steps computed,",
        "and the published codebooks, which hold.",
        "",
        *markdown(sorted(rows, key=lambda row: -row["computed_steps"]), columns),
    ]


def tokens(results: Row) -> list[str]:
    """Partial steps against skips of the same floating-point operations."""
    rows = of_demo(results, Sampling())
    partial = [row for row in rows if row["method"] == "token refresh"]
    if not partial:
        return []
    counts = [f"{count} computes{form}" for count in equal_computes(Sampling().steps) for form in ("", ", uncorrected")]
    skips = [row for row in rows if row["method"] == "adacache" and row["setting"] in counts]
    rows = [*partial, *(row for row in skips if row["videos"] == partial[0]["videos"])]  # the same ones
    columns: Columns = {
        **leading_columns("work of a step"),
        "PSNR, mean (worst tenth)": _mean_and_worst,
        "cache": lambda row: f"{(row['cache_bytes'] or 0) / 2**20:.1f} MiB",
    }
    return [
        "**Token Refresh** is for trying ToCa. Partial steps against skips of about the same floating-point operations",
        f"(those of steps computed in full and in part together), {partial[0]['videos']} videos:",
        "",
        "<details><summary>At equal work</summary>",
        "",
        *markdown(sorted(rows, key=lambda row: (-round(row["computed_steps"]), -row["psnr_mean"])), columns),
        "",
        "</details>",
    ]


def causal(measured: Row) -> list[str]:
    """Time and memory of a key/value cache, from ``causal.json``."""
    last: dict[str, Row] = {row["way"]: row for row in measured["times"]}
    first: dict[str, Row] = {row["way"]: row for row in reversed(measured["times"])}
    drifts = {way: [row["psnr"] for row in measured["drift"] if row["way"] == way] for way in last}
    columns: Columns = {
        "key/value cache": lambda row: row["way"],
        "first block": lambda row: f"{1000 * first[row['way']]['seconds']:.0f} ms per call",
        "last block": lambda row: f"{1000 * row['seconds']:.0f} ms per call",
        "bytes at the end": lambda row: f"{row['bytes'] / 2**20:.1f} MiB",
        "still scenes, first and last window": lambda row: (
            " to ".join(decibels(values[end]) for values in [drifts[row["way"]]] if values for end in (0, -1))
            or "as unbounded"
        ),
    }
    frames = max(row["frame"] for row in measured["times"]) + 2
    return [
        "**AR Cache** is for long videos of autoregressive models, which without it slow down and grow with every",
        f"block; it costs drift. The causal demo model, {frames} latent frames, a window of 6, CPU seconds of one",
        "thread; PSNR is of still scenes against their own beginning.",
        "",
        *markdown(last.values(), columns),
    ]


def _place(row: Row) -> tuple[Any, ...]:
    return (row["model"], *(row[name] for name in asdict(Sampling())))


def _mean_and_worst(row: Row) -> str:
    return f"{row['psnr_mean']:.1f} ({row['psnr_worst_decile']:.1f}) dB"


def cost(measured: Row) -> list[str]:
    """What AdaCache itself takes, from ``cost.json``."""
    columns: Columns = {
        "sampled": lambda row: row["name"],
        "one prediction": lambda row: f"{row['latent'] / 2**20:.1f} MiB",
        "kept": lambda row: f"{row['kept'] / 2**20:.0f} MiB",
        "a skipped step": lambda row: f"{1000 * row['skip']:.1f} ms",
    }
    steps = sorted({row["steps"] for row in measured["seconds"]})
    by_sampler: dict[str, dict[int, Row]] = {}
    for row in measured["seconds"]:
        by_sampler.setdefault(row["sampler"], {})[row["steps"]] = row
    times: dict[str, Callable[[tuple[str, dict[int, Row]]], str]] = {"sampler": lambda row: row[0]}
    for count in steps:
        times[f"{count} steps"] = lambda row, count=count: (
            f"{1000 * row[1][count]['ask']:.0f} + {1000 * row[1][count]['plan']:.0f} ms"
        )
    return [
        "**Cost.** Memory at real sizes and what a skipped step takes, computed from shapes: predictions are kept in",
        "float32, and a forecast of a condition moves fourteen of them, or eight where guidance is 5 or more, at 1 TB",
        "a second. Nothing of the model runs.",
        "",
        *markdown(measured["sizes"], columns),
        "",
        f"Before the first step: asking the sampler and making the plan, {measured['machine']}.",
        "",
        *markdown(by_sampler.items(), times),
    ]


def real_sizes(measured: Row) -> list[str]:
    """Seconds and bytes at real sizes, from ``gpu.json``, where more than the uncached run was measured."""
    runs: dict[tuple[str, str], dict[str, Row]] = {}
    for row in measured["rows"]:
        runs.setdefault((row["model"], row["size"]), {})[row["method"]] = row
    methods = [method for method in dict.fromkeys(row["method"] for row in measured["rows"]) if method != "uncached"]

    def cell(method: str, run: dict[str, Row]) -> str:
        return f"{run[method]['seconds']:.1f} s, {run[method]['speedup']:.2f}x" if method in run else ""

    columns: dict[str, Callable[[tuple[tuple[str, str], dict[str, Row]]], str]] = {
        "model": lambda of: of[0][0],
        "sampled": lambda of: of[0][1],
        "all 20 steps": lambda of: f"{of[1]['uncached']['seconds']:.1f} s",
        **{method: lambda of, method=method: cell(method, of[1]) for method in methods},
        "a skipped step": lambda of: f"{1000 * of[1]['balanced']['skipped_step_seconds']:.1f} ms",
        "kept": lambda of: f"{of[1]['balanced']['cache_bytes'] / 2**20:.0f} MiB",
    }
    return [
        f"**At real sizes**, {measured['device']}, {measured['dtype']}, 20 steps, res_multistep, cfg 1, in ComfyUI:",
        "seconds of sampling with random weights, which cost what trained ones cost. All 20 steps are the median of",
        "four, times 20.",
        "",
        *markdown([run for run in runs.items() if "balanced" in run[1]], columns),
    ]


def numbers(results: Row, measured: Row, costs: Row, sizes: Row) -> str:
    """The section, from ``latest.json``, ``causal.json``, ``cost.json`` and ``gpu.json``."""
    parts = [
        people(results),
        in_diffusers(results),
        methods(results),
        headline(results),
        moreg(results),
        finer(results),
        schedules(results),
        real_sizes(sizes),
        cost(costs),
        causal(measured),
        tokens(results),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def with_numbers(readme: str, *measured: Row) -> str:
    """The page's text with its numbers replaced."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{numbers(*measured)}\n{END}{after}"


def renewed(readme: str) -> str:
    """The page's text with the numbers of the results as they are."""
    files = ("latest.json", "causal.json", "cost.json", "gpu.json")
    return with_numbers(readme, *(json.loads((RESULTS / name).read_text()) for name in files))


def write() -> None:
    """Bring the page up to date."""
    NUMBERS.write_text(renewed(NUMBERS.read_text()))


if __name__ == "__main__":
    write()
