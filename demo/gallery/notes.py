"""The note inside each graph: what to download into which folder, what AdaCache does here, what to change."""

from __future__ import annotations

from collections.abc import Iterable

from adacache_core import SPEEDUPS, Steps, plan
from demo.gallery.parts import Recipe
from demo.workflow import Json

_NOTE = """## {title}

{about}

### 1. Files

{files}

Where one is missing, ComfyUI says so when it opens this graph, and offers the download.

### 2. Run

{run}

### 3. AdaCache

**AdaCache** stands between the model and the sampler. Its preset *balanced* computes {balanced} of the {total} steps \
here and forecasts the others. The **AdaCache Inspector** shows which, and how long each took.

- **Not good enough?** Preset *quality*: {quality} of {total} steps.
- **Only trying prompts?** Preset *fast*: {fast} of {total} steps.{hints}

### 4. Out of memory?

{memory}
"""
_MOTION = "**Much motion?** Plug **MoReg Settings** into AdaCache: what moves gets more steps."
_COMPARE = (
    "**Compare:** select AdaCache, press Ctrl+B. Bypassed, every step is computed; the seed is fixed, so that the "
    "videos can be compared."
)


def write_note(recipe: Recipe, files: list[Json]) -> str:
    """The note's Markdown; ``files`` are the model files that the graph loads."""
    runs = recipe.steps[:1] if recipe.comparison else recipe.steps
    computed = {preset: sum(computed_steps(preset, total) for total in runs) for preset in SPEEDUPS}
    hints = [*([] if recipe.comparison else [_MOTION, _COMPARE]), *([recipe.extra] if recipe.extra else [])]
    return _NOTE.format(
        title=f"{recipe.title}: {recipe.task}",
        about=recipe.about,
        run=recipe.run,
        memory=recipe.memory,
        hints="".join(f"\n- {hint}" for hint in hints),
        files=_table(files),
        total=sum(runs),
        **computed,
    ).strip()


def computed_steps(preset: str, total: int) -> int:
    """How many steps of a run a planned preset computes; where they are depends on the noise levels."""
    return len(planned(preset, [1 - step / total for step in range(total)]))


def planned(preset: str, times: list[float]) -> tuple[int, ...]:
    """The steps that a preset computes at these flow times, with a sampler that calls the model once a step."""
    steps = Steps((*times, 0.0), lambda time: (1 - time, time))
    reasons = plan(steps.times, steps.falls, round(len(times) / SPEEDUPS[preset]))
    return tuple(step for step, reason in enumerate(reasons) if reason is not None)


def _table(files: Iterable[Json]) -> str:
    rows = [f"| [{file['name']}]({file['url']}) | `models/{file['directory']}` |" for file in files]
    return "\n".join(["| file | folder |", "|---|---|", *rows])
