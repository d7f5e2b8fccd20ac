"""The note inside each graph: what to download into which folder, what AdaCache does here, what to change.

Without code spans, which nobody can read in ComfyUI's newer renderer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from adacache_core import SPEEDUPS, Steps, computes_of, plan
from demo.gallery.parts import Recipe
from demo.workflow import Json

SHIFT = 5.0  # of the noise schedule that plans are told for, the middle of what the models use
_FILES = """### Files

{table}

Where one is missing, ComfyUI says so when it opens this graph, and offers the download."""
_PRESETS = """**AdaCache** stands between the model and the sampler. Of {total} steps here, preset

- *quality* computes {quality},
- *balanced* computes {balanced},
- *fast* computes {fast},

and forecasts the others.{inspector}"""
_INSPECTOR = " The **AdaCache Inspector** shows which, and how long each took."
_COMPARE = (
    "**Compare:** select AdaCache, press Ctrl+B. Bypassed, every step is computed; the seed is fixed, so that the "
    "results can be compared."
)
_SAMPLER = (
    "**Sampler:** euler, res_multistep or dpmpp_2m. They take back the error of skips; uni_pc and samplers that add "
    "noise (ancestral, sde) do not, and the result is less exact."
)


def write_note(recipe: Recipe, files: list[Json], inspected: bool) -> str:
    """The note's Markdown, of a graph that loads these model files and has an inspector or not."""
    return "\n\n".join(_sections(recipe, files, _INSPECTOR if inspected else ""))


def _sections(recipe: Recipe, files: list[Json], inspector: str) -> Iterator[str]:
    counts = computed_steps(recipe)
    yield f"## {recipe.name}\n\n{recipe.about}"
    if files:
        yield _FILES.format(table=_table(files))
    yield f"### Run\n\n{recipe.run}"
    hints = [hint.format(**counts) for hint in recipe.hints]
    if recipe.runs:
        yield f"### AdaCache\n\n{_PRESETS.format(**counts, inspector=inspector)}"
        hints = [*([_COMPARE] if recipe.runs == 1 and None not in recipe.drawn else []), _SAMPLER, *hints]
    yield "\n".join(f"- {hint}" for hint in hints)
    if recipe.memory:
        yield f"### Out of memory?\n\n{recipe.memory}"


def computed_steps(recipe: Recipe) -> dict[str, int]:
    """How many steps of one sampling run each planned preset computes, and ``total``; of all drafts, ``drafts``."""
    total = sum(recipe.steps)
    counts = {preset: sum(map(len, planned_parts(preset, recipe.steps))) for preset in SPEEDUPS}
    return {**counts, "total": total, "drafts": recipe.runs * counts["fast"], "all_drafts": recipe.runs * total}


def planned_parts(preset: str, steps: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Which steps of each part of a run a preset computes, with a sampler that calls the model once a step."""
    total, start = sum(steps), 0
    sigmas = tuple(SHIFT * time / (1 + (SHIFT - 1) * time) for time in (1 - step / total for step in range(total + 1)))
    for count in steps:
        end = start + count
        own = Steps(sigmas[start : end + 1], lambda time: (1 - time, time), sigmas[:start], sigmas[end + 1 :])
        reasons = plan(own.times, own.falls, computes_of(preset, count, own), share=own.share, handed_on=own.handed_on)
        yield tuple(step for step, reason in enumerate(reasons) if reason is not None)
        start = end


def _table(files: Iterable[Json]) -> str:
    rows = [f"| [{file['name']}]({file['url']}) | models/{file['directory']} |" for file in files]
    return "\n".join(["| file | folder |", "|---|---|", *rows])
