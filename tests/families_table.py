"""The table of model families in ``docs/models.md``. Write it with ``python -m tests.families_table``.

It is made of the tests themselves: a mark stands for a test function that has the family among its parameters, so that
a family or a test that goes takes its marks along. Nothing is recorded of a run, and nothing needs to be: the suite
that compares the page with this table (``test_families.py``) is the one in which all of these tests must pass.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import test_ar_cache
import test_families
import test_token_refresh
from tiny_models import FAMILIES, Family

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- families: written by `python -m tests.families_table` -->", "<!-- end of families -->"
# What people know the classes of ``comfy/supported_models.py`` as.
KNOWN_AS = {
    "WAN21_T2V": "Wan 2.1 text to video",
    "WAN21_I2V": "Wan 2.1 image to video, first and last frame",
    "WAN22_T2V": "Wan 2.2: 5B, A14B",
    "WAN21_Vace": "Wan VACE",
    "WAN21_FunControl2V": "Wan Fun Control",
    "WAN21_Camera": "Wan 2.1 Fun Camera",
    "WAN22_Camera": "Wan 2.2 Fun Camera",
    "WAN22_S2V": "Wan 2.2 S2V (speech)",
    "WAN22_Animate": "Wan 2.2 Animate",
    "WAN21_HuMo": "HuMo",
    "WAN21_SCAIL": "SCAIL",
    "WAN21_SCAIL2": "SCAIL-2",
    "WAN21_FlowRVS": "FlowRVS (what a sentence names in a video)",
    "WAN22_WanDancer": "WanDancer",
    "WAN21_CausalAR_T2V": "Wan autoregressive (Self-Forcing)",
    "HunyuanVideo": "HunyuanVideo text to video, reference latents, ControlNet",
    "HunyuanVideoI2V": "HunyuanVideo image to video",
    "HunyuanVideoSkyreelsI2V": "SkyReels image to video",
    "HunyuanVideo15": "HunyuanVideo 1.5",
    "HunyuanVideo15_SR_Distilled": "HunyuanVideo 1.5 upscaler",
    "LTXV": "LTX-Video, keyframes",
    "LTXAV": "LTX-2 (video and audio)",
    "CosmosT2IPredict2": "Cosmos Predict2 text to video",
    "CosmosI2VPredict2": "Cosmos Predict2 image to video",
    "CosmosT2V": "Cosmos 1.0 text to video",
    "CosmosI2V": "Cosmos 1.0 image to video",
    "CogVideoX_T2V": "CogVideoX text to video",
    "CogVideoX_I2V": "CogVideoX 1.5 image to video",
    "CogVideoX_Inpaint": "CogVideoX inpainting (VOID)",
    "Kandinsky5": "Kandinsky 5",
    "GenmoMochi": "Mochi",
    "MiniMaxH3": "MiniMax H3",
    "PixArtAlpha": "PixArt Alpha (images)",
    "PixArtSigma": "PixArt Sigma (images)",
}
# Video models for which there are the planned presets only, by the class that ``test_families.py`` shows, and why.
REFUSED = {
    "Stable Video Diffusion, SV3D": ("SVD_img2vid, SV3D_u, SV3D_p", test_families.UNET, "a UNet has no row of blocks"),
    "SeedVR2": ("SeedVR2", test_families.SEEDVR2, "it upscales in one step, which leaves nothing to skip"),
}


def families(test: Callable[..., Any]) -> set[str]:
    """Names of the rows that a test function is run with."""
    [mark] = [mark for mark in test.pytestmark if mark.args[0] == "tiny"]  # type: ignore[attr-defined]
    return {row.name for row in mark.args[1]}


RULED = test_families.test_family_skips_by_the_rule_and_is_the_uncached_model_where_it_does_not
SHOWN = {
    "computes the same bits, skips by the rule": families(RULED),
    "skip equals compute": families(test_families.test_family_skip_on_unchanged_input_equals_the_compute),
}
# What plugs in beside; "yes" where a form of the class is among the tests of it.
BESIDE = {"Token Refresh": set(test_token_refresh.SUPPORTED), "AR Cache": {test_ar_cache.AUTOREGRESSIVE}}


def table() -> str:
    """The table in Markdown, one line per class."""
    classes: dict[str, list[Family]] = {}
    for row in FAMILIES:
        classes.setdefault(row.name.split("-")[0], []).append(row)
    assert classes.keys() == KNOWN_AS.keys(), "KNOWN_AS and the rows of tiny_models.py name different classes"
    heading = ["model", "class in ComfyUI", "paper's presets", *SHOWN, *BESIDE]
    lines = [heading, ["---"] * len(heading)]
    for name, rows in classes.items():
        cells = ["yes" if all(row.name in tested for row in rows) else "no" for tested in SHOWN.values()]
        beside = ["yes" if any(row.name in tested for row in rows) else "" for tested in BESIDE.values()]
        lines.append([KNOWN_AS[name], f"`{name}`", "no" if "no" in cells else "yes", *cells, *beside])
    for model, (names, _, reason) in REFUSED.items():
        lines.append([model, f"`{names}`", f"no: {reason}", *[""] * (len(heading) - 3)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parts(page: str) -> tuple[str, str, str]:
    """The page before the table, the table, and what follows."""
    before, _, rest = page.partition(BEGIN + "\n")
    made, end, after = rest.partition(END)
    assert end, f"{PAGE} has no {BEGIN} ... {END}"
    return before + BEGIN + "\n", made, end + after


if __name__ == "__main__":
    before, _, after = parts(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(before + table() + "\n" + after, encoding="utf-8")
