"""Every command in README.md works, and everything it links to is there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import tomllib
from PIL import Image, ImageSequence

from adacache_core import SPEEDUPS
from demo.comfyui import REPOSITORY

README = re.sub("<!--.*?-->", "", (REPOSITORY / "README.md").read_text(encoding="utf-8"))
FENCED = re.findall(r"^```(?:bash|sh|console)?\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
INLINE = re.findall(r"`((?:make|python3?|pip|uv|git|cd|comfy|curl|npm) [^`\n]+)`", README)
FOUND = {line.strip() for block in FENCED for line in block.splitlines() if line.strip()} | set(INLINE)
COMMANDS = sorted(command for command in FOUND if "REPOSITORY" not in command)
# Running these here would run this test again, or take half an hour.
TOO_LONG = ("make test", "make bench")


def run(command: str) -> str:
    """Run a command in the repository; returns what it printed."""
    # Not as a part of the `make test` that runs this.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "PYTEST_"))}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"
    return done.stdout


def test_the_commands_are_found_and_each_is_run_below():
    assert COMMANDS == ["make bench", "make demo", "make test"]


@pytest.mark.parametrize("command", TOO_LONG)
def test_what_takes_too_long_would_start(command):
    modules = re.findall(r"python -m (\S+)", run(command.replace("make ", "make --dry-run ", 1)))
    assert modules[-1] == {"make test": "pytest", "make bench": "benchmarks.bench"}[command]
    for module in set(modules) - {"demo.comfyui"}:  # has no options, and is run by every other test
        assert "usage: " in run(f"{sys.executable} -m {module} --help")


@pytest.mark.long
@pytest.mark.server
@pytest.mark.usefixtures("demo_weights")
def test_the_demo_makes_what_the_readme_says(tmp_path):
    output = run(f"make demo DEMO_ARGS='--output {tmp_path}'")
    [computed, of] = re.findall(r"^\| `balanced` \(default\) \| (\d) steps? of (\d) \|", README, re.MULTILINE)[0]
    promised = round(30 * int(computed) / int(of))
    assert re.search(rf"^ *balanced +{promised} +{30 - promised} ", output, re.MULTILINE), output
    assert (tmp_path / "side_by_side.mp4").stat().st_size > 0


def test_its_picture_is_small_moves_and_can_be_made_again():
    [name] = re.findall(r"^!\[.+\]\((\S+\.gif)\)$", README, re.MULTILINE)
    path = REPOSITORY / name
    assert path.stat().st_size < 3_000_000
    with Image.open(path) as picture:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
        assert "loop" in picture.info
    assert len(frames) == 33  # of the demo workflow
    assert all((one != other).any() for one, other in pairwise(frames))
    assert (frames[0][:, -480:] == frames[16][:, -480:]).mean() > 0.95  # the chart stands still
    assert "`python -m demo.clip`" in (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_one_command_says_where_the_repository_is(tmp_path):
    files = ("Makefile", "README.md", "pyproject.toml")
    for name in files:
        (tmp_path / name).write_bytes((REPOSITORY / name).read_bytes())
    subprocess.run(
        ["make", "repository", "URL=ssh://somewhere/adacache"], cwd=tmp_path, check=True, capture_output=True
    )
    readme, project = ((tmp_path / name).read_text(encoding="utf-8") for name in files[1:])
    assert "`git clone ssh://somewhere/adacache ComfyUI/custom_nodes/adacache`" in readme
    assert tomllib.loads(project)["project"]["urls"]["Repository"] == "ssh://somewhere/adacache"


def test_it_is_read_in_four_minutes():
    assert len(README.split()) <= 900


PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "benchmarks").rglob("*.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    assert targets or page.name != "README.md" or page.parent != REPOSITORY
    assert not [target for target in targets if "://" not in target and not (page.parent / target).exists()]


MODELS = {"": "demo", ", two experts": "experts", ", another family": "hunyuan", ", looks real": "real"}


def test_its_numbers_are_those_of_the_results():
    """A row of it is three of the measurement, mean and worst tenth: AdaCache, fewer steps, LazyCache."""
    results = json.loads((REPOSITORY / "benchmarks" / "results" / "latest.json").read_text(encoding="utf-8"))
    rows = [row for row in results["rows"] if row["runner"] == "comfyui"]
    measured = {(r["model"], r["steps"], r["sampler"], r["cfg"], r["method"], r["setting"]): r for r in rows}
    row = r"^\| (\d+) steps, (\w+), cfg ([\d.]+)(, [a-z ]+)? \| (\w+) \| (\d+) \| (.*) \| (.*) \| (.*) \|$"
    shown = re.findall(row, README, re.MULTILINE)
    assert len(shown) >= 4
    for steps, sampler, cfg, name, preset, computed, *cells in shown:
        model = {"experts": "adacache_experts"}.get(MODELS[name], f"adacache_{MODELS[name]}_dit")
        plain = round(int(steps) / SPEEDUPS[preset])
        methods = ("adacache", preset), ("fewer", f"{plain} steps"), ("lazycache", "threshold 0.2")
        found = [measured[(model, int(steps), sampler, float(cfg), *method)] for method in methods]
        assert cells == [f"{r['psnr_mean']:.1f} ({r['psnr_worst_decile']:.1f})" for r in found], (name, sampler, preset)
        assert found[0]["set"] == "test" and found[0]["computed_steps"] == int(computed)
