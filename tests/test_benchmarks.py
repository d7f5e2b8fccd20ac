"""The benchmark's own parts: what it counts and compares has to be right before its numbers are."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import compare as versions
from benchmarks import levels, readme, scenes
from benchmarks.bench import frontier, line_of, measure, table, truth
from benchmarks.fixed import evenly
from benchmarks.quality import EQUAL_DB, compare
from benchmarks.records import Records, row
from benchmarks.settings import (
    CALIBRATORS,
    EXPERTS,
    GUIDED,
    MAIN,
    SUBLAYERS,
    UNCACHED,
    Sampling,
    comfyui_settings,
    diffusers_settings,
    equal_computes,
    finer_settings,
    headline_settings,
    main_settings,
    setting,
)
from demo.comfyui import REPOSITORY
from demo.scenes import Scene


def test_even_distances_by_hand():
    reasons = evenly([0.0] * 30, [1.0] * 30, 10)
    assert [call for call, reason in enumerate(reasons) if reason] == [0, 1, 2, 6, 10, 14, 17, 21, 25, 29]
    for steps in (20, 30, 50, 100):
        for computes in equal_computes(steps):
            assert sum(reason is not None for reason in evenly([0.0] * steps, [1.0] * steps, computes)) == computes


class TestScenes:
    def test_no_scene_and_no_seed_is_in_both_sets(self):
        published, fitted = scenes.test(432), scenes.development(432)
        for one, other in zip(zip(*published, strict=True), zip(*fitted, strict=True), strict=True):
            assert len(set(one)) == len(set(other)) == 432
            assert not set(one) & set(other)

    def test_the_published_ones_are_what_they_were_when_they_were_drawn(self):
        first = [
            Scene("slow", "pan", "textured", "2", "blue", "square"),
            Scene("changing", "pan", "textured", "2", "yellow", "square"),
        ]
        assert scenes.test(2) == list(zip(first, (70_000, 70_001), strict=True))
        everything = "\n".join(str(video) for video in scenes.test(432))
        assert hashlib.sha256(everything.encode()).hexdigest()[:16] == "7df40281873112c7"
        assert scenes.test(48) == scenes.test(432)[:48]

    def test_no_more_than_there_are(self):
        with pytest.raises(ValueError, match="There are 432 scenes of a set; asked for 433"):
            scenes.test(433)


def test_settings_are_told_apart_by_their_labels():
    rows = list(comfyui_settings(Sampling(), short=False))
    assert len({(row.method, row.label) for row in rows}) == len(rows)
    peers = {"easycache", "lazycache", "fixed", "fewer"}
    assert {row.method for row in rows} == {"adacache", *peers}
    for sampling in (*MAIN, GUIDED):
        rows = list(main_settings(sampling))
        assert len({(row.method, row.label) for row in rows}) == len(rows)
        assert {row.method for row in rows} == {"uncached", "adacache", *peers} - {"fixed"}
    rows = list(dict.fromkeys([*rows, *finer_settings(MAIN[0])]))  # both have the uncached one
    assert len({(row.method, row.label) for row in rows}) == len(rows)
    assert {row.method for row in rows} == {"uncached", "adacache", "adacache sampler", "solver", *peers} - {"fixed"}
    counts = [
        row.arguments["computes"] for row in headline_settings(Sampling(steps=100)) if "computes" in row.arguments
    ]
    assert counts == [21, 21, 14, 14]  # the paper's 4.7x, and 7x


def test_quality_by_hand():
    still = np.full((3, 16, 16, 3), 100, dtype=np.uint8)
    moving = still.copy()
    moving[1], moving[2] = 110, 130  # changes of 10 and 20
    slower = still.copy()
    slower[1], slower[2] = 105, 115  # changes of 5 and 10
    assert compare(moving, moving) == {"psnr": EQUAL_DB, "ssim": 1.0, "temporal_error": 0.0, "motion_ratio": 1.0}
    found = compare(slower, moving)
    assert found["motion_ratio"] == pytest.approx(0.5)
    assert found["temporal_error"] == pytest.approx(7.5)
    assert found["psnr"] == pytest.approx(10 * np.log10(255**2 / ((5**2 + 15**2) / 3)))


def test_a_row_by_hand():
    def record(psnr, motion, computed, seconds, truth):
        return {
            "set": "test", "truth_psnr": truth,
            "runner": "comfyui", "model": "m", "sampling": asdict(Sampling()), "method": "adacache", "setting": "x",
            "motion": motion, "psnr": psnr, "ssim": 0.9, "computed_steps": computed, "seconds": seconds,
            "uncached_seconds": 6.0, "temporal_error": 1.0, "motion_ratio": 0.8, "cache_bytes": 2048,
        }  # fmt: skip

    records = [
        record(40.0, "still", 10, 2.0, 26.0),
        record(30.0, "fast", 20, 3.0, 22.0),
        record(35.0, "slow", 12, 4.0, None),
    ]
    found = row(records)
    assert found["set"] == "test"
    assert (found["truth_psnr"], found["truth_worst"]) == (24.0, 22.0)
    assert row(records[2:])["truth_psnr"] is row(records[2:])["truth_worst"] is None
    assert found["psnr_mean"] == 35.0
    assert found["psnr_worst_decile"] == 30.0
    assert found["psnr_fast_motion"] == 30.0
    assert row(records[2:])["psnr_fast_motion"] is None
    assert found["speedup"] == 2.0  # median of 3, 2 and 1.5
    assert found["computed_steps"] == 14.0
    assert found["motion_ratio"] == 0.8
    assert found["videos"] == 3
    cells = (
        "m | 30 steps, euler, shift 3, cfg 3 | adacache | x | 14.0 of 30 | 2.00x | 35.0 | 30.0 | 24.0 | 0.900 | 0.80 "
        "| 2 | 3"
    )
    assert f"| test | comfyui | {cells} |" in table([found])


class SmallBlock(nn.Module):
    """A Wan block's matrices, 4 channels wide; at a partial step the first ``chosen`` tokens go through the MLP."""

    def __init__(self):
        super().__init__()
        self.self_attn = nn.ModuleDict({name: nn.Linear(4, 4) for name in "qkvo"})
        self.cross_attn = nn.ModuleDict({name: nn.Linear(4, 4) for name in "qkvo"})
        self.ffn = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))

    def forward(self, x, prompt, chosen=None):
        if chosen is None:
            for module in self.self_attn.values():
                module(x)
            for name, module in self.cross_attn.items():
                module(prompt if name in "kv" else x)
        self.ffn(x[:, :chosen])


def test_work_by_hand():
    from benchmarks.comfyui_runner import counted

    block, x, prompt = SmallBlock(), torch.zeros(2, 10, 4), torch.zeros(2, 3, 4)
    with counted(block) as work:
        block(x, prompt)
        assert work() == 2  # conditions
        block(x[:1], prompt[:1], chosen=5)
        # Of 10 tokens: self-attention 4 x 320 and its two products 1600, cross-attention 2 x 320, the MLP 2 x 640.
        assert work() == pytest.approx(2 + 640 / 4800)
    block(x, prompt)
    assert work() == pytest.approx(2 + 640 / 4800), "counts after its end"


def test_calls_by_hand():
    """Of models whose blocks are not Wan's: how many conditions there were, however they come in."""
    from benchmarks.comfyui_runner import counted

    class Block(nn.Module):
        def forward(self, img, txt):
            return img

    block = Block()
    with counted(block) as work:
        block(torch.zeros(2, 3), torch.zeros(1))
        block(img=torch.zeros(1, 3), txt=torch.zeros(1))
        assert work() == 3


@pytest.mark.long
@pytest.mark.usefixtures("comfy_imports")
def test_the_model_that_nothing_is_tuned_to(demo_weights):
    """HunyuanVideo's classes by ComfyUI's own loader, a VAE of that scale, and a plan that is worth more than steps."""
    from benchmarks.comfyui_runner import ComfyUIRunner

    names = ("adacache_hunyuan_dit", "adacache_hunyuan_vae", "adacache_demo_vae")
    weights, vae, wan_vae = (demo_weights / f"{name}.safetensors" for name in names)
    runner = ComfyUIRunner(weights, vae)
    assert type(runner._model.model).__name__ == "HunyuanVideo"
    (scene, seed), sampling = scenes.development(1)[0], Sampling(20, "euler", 5.0, 1.0)
    settings = (UNCACHED, setting("adacache", "balanced", preset="balanced"), setting("fewer", "10", computes=10))
    whole, ours, fewer = (runner.sample(scene, seed, sampling, setting) for setting in settings)
    assert (whole.computed_steps, ours.computed_steps, fewer.computed_steps) == (20, 10, 10)
    errors = [versions.decibels(made.latent, whole.latent)["signal_to_error"] for made in (ours, fewer)]
    assert errors[0] > errors[1] + 3
    # The same picture from the same latent, as either family scales it.
    wan = ComfyUIRunner(demo_weights / "adacache_demo_dit.safetensors", wan_vae)
    standard = runner._model.model.latent_format.process_in(whole.latent)
    other = wan.decode(wan._model.model.latent_format.process_out(standard)).astype(int)
    assert abs(runner.decode(whole.latent).astype(int) - other).max() <= 2


def test_prompts_of_the_model_that_looks_real():
    """In turn, each with a noise of its own that no other set has."""
    videos = scenes.real(50)
    assert len({scene for scene, _ in videos[:43]}) == 43
    assert videos[43][0] == videos[0][0]
    others = {seed for of_set in (scenes.test, scenes.development) for _, seed in of_set(432)}
    assert len({seed for _, seed in videos} - others) == 50


@pytest.mark.long
@pytest.mark.usefixtures("comfy_imports")
def test_the_model_that_looks_real_draws_what_the_prompt_says(demo_weights):
    from benchmarks.comfyui_runner import ComfyUIRunner

    runner = ComfyUIRunner(*(demo_weights / f"adacache_real_{part}.safetensors" for part in ("dit", "vae")))
    sampling = Sampling(12, "res_multistep", 5.0, 1.0)
    prompts = ("flowers grow under a blue sky", "red fox walks through snow")
    latents = [runner.sample(scenes.Words(prompt), 0, sampling, UNCACHED).latent for prompt in prompts]
    flowers, fox = runner.decode(torch.cat(latents)).reshape(2, 17, -1, 3).mean(axis=(1, 2))
    assert flowers[2] > flowers[0] + 30  # blue over red, of 255
    assert fox[2] < fox[0] + 10
    assert fox.mean() > 150  # snow


def test_levels_are_placed_where_steps_err_least():
    no = math.inf
    errors = torch.tensor([[no, 1, 3, 9], [no, no, 1, 4], [no, no, no, 1], [no] * 4], dtype=torch.float64)
    assert levels.placed(errors, 1) == [0, 3]
    assert levels.placed(errors, 2) == [0, 2, 3]  # 3 + 1, not 1 + 4
    assert levels.placed(errors, 2, ahead=0.5) == [0, 1, 3]  # 1 + 4 / 2, not 3 + 1 / 2
    assert levels.placed(errors, 3) == [0, 1, 2, 3]


def test_one_step_errs_by_how_far_the_way_bends():
    """On x = (1 - s)^2 a step from 0.5, where x is 0.25 and its slope -1, ends at 0.75 in place of 1."""
    way = [(s, torch.tensor([[(1 - s) ** 2]]), torch.tensor([[2 * (s - 1)]])) for s in (1.0, 0.5, 0.0)]
    errors = levels.costs(way)
    assert errors[0, 1:].tolist() == [0.25, 1.0]
    assert errors[1, 2] == pytest.approx(0.25)
    assert torch.isinf(errors.tril()[0, 0])


@pytest.mark.long
@pytest.mark.usefixtures("comfy_imports")
def test_two_experts_are_as_one_where_they_are_the_same(demo_weights):
    from benchmarks.comfyui_runner import ComfyUIRunner, ExpertsRunner

    weights = demo_weights / "adacache_demo_dit.safetensors"
    vae = demo_weights / "adacache_demo_vae.safetensors"
    (scene, seed), sampling = scenes.development(1)[0], Sampling(steps=6)
    one, two = ComfyUIRunner(weights, vae), ExpertsRunner((weights, weights), vae, EXPERTS)
    whole, parts = (runner.sample(scene, seed, sampling, UNCACHED) for runner in (one, two))
    assert two.model == EXPERTS
    assert (parts.computed_steps, parts.cache_bytes) == (6.0, None)
    torch.testing.assert_close(parts.latent, whole.latent, rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.usefixtures("comfy_imports")
def test_a_small_benchmark_runs_and_goes_on_where_it_stopped(demo_weights, tmp_path):
    from benchmarks.comfyui_runner import LATENT, ComfyUIRunner

    runner = ComfyUIRunner(
        demo_weights / "adacache_demo_dit.safetensors", demo_weights / "adacache_demo_vae.safetensors"
    )
    sampling, videos, said = Sampling(steps=12), scenes.development(1), []
    settings = [
        setting("adacache", "balanced", preset="balanced"),
        setting("fixed", "6 computes", computes=6),
        setting("easycache", "threshold 0.2", threshold=0.2),
        setting("lazycache", "never", threshold=0.0),
        setting("fewer", "6 steps", computes=6),
        UNCACHED,
        setting("adacache sampler", "6 evaluations", evaluations=6),
        setting("solver", "6 steps, ipndm, beta", computes=6, sampler="ipndm", scheduler="beta"),
    ]
    records = Records(tmp_path / "samples.jsonl")
    measure(runner, sampling, settings[:2], videos, "dev", records, said.append)
    again = Records(tmp_path / "samples.jsonl")
    assert again.all == records.all
    measure(runner, sampling, settings, videos, "dev", again, said.append)
    by_method = {record["method"]: record for record in again.all}
    assert [record["method"] for record in again.all] == [setting.method for setting in settings]
    assert {record["set"] for record in again.all} == {"dev"}
    assert by_method["adacache"]["computed_steps"] == by_method["fixed"]["computed_steps"] == 6
    assert 1 <= by_method["easycache"]["computed_steps"] < 12
    assert by_method["lazycache"]["computed_steps"] == 12
    assert by_method["lazycache"]["psnr"] == EQUAL_DB
    assert {by_method[name]["computed_steps"] for name in ("fewer", "adacache sampler", "solver")} == {6}
    assert by_method["fewer"]["psnr"] < by_method["adacache"]["psnr"] < EQUAL_DB
    assert (by_method["uncached"]["computed_steps"], by_method["uncached"]["psnr"]) == (12, EQUAL_DB)
    assert by_method["adacache"]["truth_psnr"] is None, "not one of what people run"
    latent = math.prod(LATENT) * 4
    # Three predictions of two conditions and of both together, and the last correction.
    assert by_method["adacache"]["cache_bytes"] == (3 * (2 + 1) + 1) * latent
    assert by_method["easycache"]["cache_bytes"] == 2 * latent
    assert len(said) == 2
    measure(runner, sampling, settings, videos, "dev", again, lambda text: pytest.fail(text))


def test_the_converged_video_is_for_what_people_run_and_finer_steps_only():
    class Runner:
        def sample(self, scene, seed, sampling, setting):
            assert (sampling, setting) == (Sampling(200, "dpmpp_2m", 5.0, 1.0), UNCACHED)
            asked.append(seed)
            return SimpleNamespace(latent=torch.zeros(1))

        def decode(self, latent):
            return np.full((1, 2, 2, 3), 7, dtype=np.uint8)

    (scene, seed) = scenes.development(1)[0]
    runner, asked = Runner(), []
    assert truth(runner, scene, seed, Sampling()) is None
    for sampling in MAIN:
        assert truth(runner, scene, seed, sampling).tolist() == [[[7] * 3] * 2] * 2
    assert asked == [seed], "once for the two samplers"


class TestTwoVersions:
    def test_decibels_by_hand(self):
        reference = torch.tensor([3.0, -1.0])
        found = versions.decibels(torch.tensor([3.5, -1.5]), reference)
        assert found["signal_to_error"] == pytest.approx(10 * np.log10(5 / 0.25))
        assert found["psnr"] == pytest.approx(10 * np.log10(4**2 / 0.25))
        assert set(versions.decibels(reference, reference).values()) == {EQUAL_DB}

    def test_the_rows_are_those_asked_for(self):
        rows = [str(row) for row in versions.rows()]
        assert len(set(rows)) == len(rows) == 17
        assert rows[0] == "euler, 10 of 20, cfg 1, shift 5"
        assert "res_multistep, 8 of 20, cfg 1, shift 5" in rows
        assert "dpmpp_2m, 13 of 30, cfg 6, shift 3" in rows
        assert rows[-1] == "euler, 17 of 50, cfg 3, shift 8"

    def test_the_table_by_hand(self):
        def record(method, decibels, seed):
            facts = {"model": "demo", "row": "euler", "seed": seed, "computed_steps": 10.0}
            return {**facts, "method": method, "signal_to_error": decibels, "psnr": decibels + 10}

        records = [
            record(method, decibels, seed)
            for method, values in {"fewer": (20, 26), "other": (30, 34), "this": (36, 35)}.items()
            for seed, decibels in enumerate(values)
        ]
        [entry] = versions.summary(records)
        assert (entry["videos"], entry["gain"], entry["ahead_of_fewer"]) == (2, 3.5, 12.5)
        assert entry["this"]["psnr"] == {"mean": 45.5, "worst": 45, "each": [46, 45]}
        line = "| demo | euler | 32.0 (30.0) | 35.5 (35.0) | +3.5 (+5.0) | 10.00 and 10.00 | 23.0 (20.0) | 2 |"
        assert line in versions.table([entry])

    @pytest.mark.long
    def test_a_version_against_itself(self, comfyui_path, demo_weights, tmp_path):
        command = [
            sys.executable, "-m", "benchmarks.compare", "--other", str(REPOSITORY), "--models", "demo",
            "--videos", "1", "--set", "dev", "--rows", "uni_pc", "--out", str(tmp_path),
        ]  # fmt: skip
        written = []
        for _ in range(2):
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY)
            assert "video 1 of 1, demo, uni_pc, 10 of 20, cfg 1, shift 5" in done.stdout
            written.append({file.name: file.stat().st_mtime_ns for file in (tmp_path / "samples").iterdir()})
        assert len(written[0]) == 3, "samples of equal code are one"
        assert written[0] == written[1], "goes on where it stopped"
        [entry] = json.loads((tmp_path / "compare.json").read_text())["rows"]
        assert entry["gain"] == 0
        assert entry["this"]["computed_steps"] == 10
        assert EQUAL_DB > entry["this"]["signal_to_error"]["mean"] > entry["fewer"]["signal_to_error"]["mean"]

    def test_a_folder_that_is_no_checkout(self, tmp_path):
        with pytest.raises(SystemExit, match="must be a checkout of AdaCache"):
            versions.Checkout(tmp_path)


@pytest.fixture(scope="module")
def runners(comfy_imports, demo_weights):
    from benchmarks.comfyui_runner import ComfyUIRunner
    from benchmarks.diffusers_runner import DiffusersRunner

    weights = demo_weights / "adacache_demo_dit.safetensors"
    comfyui = ComfyUIRunner(weights, demo_weights / "adacache_demo_vae.safetensors")
    return comfyui, DiffusersRunner(weights, comfyui)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::UserWarning:torch.functional")  # FasterCache's meshgrid
class TestDiffusers:
    """The same weights in diffusers, with its caches and cache-dit's."""

    def test_the_model_is_the_same(self, runners):
        comfyui, diffusers = runners
        generator = torch.Generator().manual_seed(0)
        latent = torch.randn(2, 16, 9, 16, 16, generator=generator)
        context = torch.randn(2, 6, 4096, generator=generator)
        sigmas = torch.tensor([0.9, 0.2])
        with torch.no_grad():
            expected = comfyui._model.model.diffusion_model(latent, 1000 * sigmas, context)
            found = diffusers._model(latent, 1000 * sigmas, context, return_dict=False)[0]
        assert expected.std() > 0.1
        assert (found - expected).abs().max() < 1e-4

    def test_work_is_counted_in_steps(self, runners):
        from benchmarks.comfyui_runner import LATENT

        _, diffusers = runners
        (scene, seed), sampling = scenes.development(1)[0], Sampling(steps=8)
        uncached = diffusers.sample(scene, seed, sampling, setting("uncached", ""))
        assert (uncached.computed_steps, uncached.cache_bytes) == (8.0, None)

        every = diffusers.sample(scene, seed, sampling, setting("adacache", "all", preset="target", computes=8))
        assert torch.equal(every.latent, uncached.latent)
        five = diffusers.sample(scene, seed, sampling, setting("adacache", "five", preset="target", computes=5))
        latent = math.prod(LATENT) * 4
        assert (five.computed_steps, five.cache_bytes) == (5.0, (3 * (2 + 1) + 1) * latent)
        fewer = diffusers.sample(scene, seed, sampling, setting("fewer", "five", computes=5))
        assert torch.equal(
            fewer.latent, diffusers.sample(scene, seed, Sampling(steps=5), setting("uncached", "")).latent
        )

        never = {
            "fbcache": {"threshold": 0.0},
            "magcache": {"threshold": 0.0},
            "dbcache": {"residual_diff_threshold": 0.0},
            "seacache": {"threshold": 0.0},
            "pab": {"spatial_attention_block_skip_range": 1},
            "taylorseer": {"disable_cache_before_step": 8},
        }
        for method, options in never.items():
            sampled = diffusers.sample(scene, seed, sampling, setting(method, "never", **options))
            assert (method, sampled.computed_steps) == (method, 8.0)
            assert torch.allclose(sampled.latent, uncached.latent, atol=1e-5), method

        often = {
            # Computes the first three steps and every fourth from step 4 on.
            "taylorseer": {"cache_interval": 4, "cache_identifiers": SUBLAYERS},
            "fbcache": {"threshold": 1e9},  # the first block runs in every step, the nine others in the first only
            "magcache": {"threshold": 1e9, "max_skip_steps": 99, "retention_ratio": 0.125},  # the first step only
            "dbcache": {"residual_diff_threshold": 1e9},  # two blocks in all, eight in the first three
            "seacache": {"threshold": 1e9, "max_consecutive_cached": 0},  # the first step and the last one
        }
        expected = {"taylorseer": 4.0, "fbcache": 1 + 7 * 0.1, "magcache": 1.0, "dbcache": 3 + 5 * 0.2, "seacache": 2.0}
        for method, options in often.items():
            sampled = diffusers.sample(scene, seed, sampling, setting(method, "often", **options))
            assert (method, sampled.computed_steps) == (method, pytest.approx(expected[method]))

    def test_what_forecasts_and_what_a_mask_skips_in_cache_dit(self, runners):
        import cache_dit

        _, diffusers = runners
        (scene, seed), sampling = scenes.development(1)[0], Sampling(steps=20, cfg=1.0)
        mask = cache_dit.steps_mask(mask_policy="fast", total_steps=20)
        made = {}
        for name, calibrator in {"hold": {}, **CALIBRATORS}.items():
            made[name] = diffusers.sample(scene, seed, sampling, setting("dbcache", name, mask="fast", **calibrator))
            assert made[name].computed_steps == pytest.approx(sum(mask) + 0.2 * (20 - sum(mask))), name
        latents = [sampled.latent for sampled in made.values()]
        assert not any(torch.equal(one, other) for one, other in itertools.combinations(latents, 2))

    def test_settings_are_told_apart_by_their_labels(self):
        rows = list(diffusers_settings(Sampling(), short=False))
        assert len({(row.method, row.label) for row in rows}) == len(rows)
        peers = {"fbcache", "taylorseer", "magcache", "seacache", "fastercache", "pab", "dbcache"}
        assert {row.method for row in rows} == {"adacache", "fixed", "fewer"} | peers
        alone = {row.method for row in diffusers_settings(MAIN[1], short=False)}
        assert alone == {"adacache", "fixed", "fewer"} | peers - {"fastercache"}, "which needs guidance"


def test_the_page_of_numbers_says_what_the_results_say():
    text = readme.NUMBERS.read_text()
    assert readme.renewed(text) == text, "run: python -m benchmarks.readme"
    shown, _, _ = text.partition(readme.START)[2].partition("<details>")
    ours = re.findall(r"^\| 20 steps, .* \| 48 \| .* dB, 10.0, ", shown, re.MULTILINE)
    assert len(ours) == 10, "four models at two settings, and two pairs of experts"


def test_rows_are_points_of_the_plots_lines():
    lines = {
        ("adacache", "balanced"): "adacache",
        ("adacache", "12 computes"): "adacache",
        ("adacache", "12 computes, uncorrected"): None,
        ("adacache", "paper-slow"): "adacache, the paper's presets",
        ("adacache", "paper-slow, MoReg"): None,
        ("fixed", "12 computes"): "fixed",
        ("fewer", "12 steps"): "fewer",
        ("easycache", "threshold 0.2"): "easycache",
        ("fewer", "10 steps, dpmpp_2m"): "fewer, dpmpp_2m",
        ("adacache", "10 computes, finer"): None,
        ("adacache sampler", "10 evaluations"): None,
        ("taylorseer", "interval 4, order 1, lite"): "taylorseer",
        ("dbcache", "mask slow, FoCa"): "dbcache",
        ("seacache", "threshold 0.25, order 1"): "seacache",
        ("magcache", "threshold 0.06, 3 skips"): "magcache",
        ("token refresh", "random, ratio 0.1, 9 computes"): None,
    }
    assert {row: line_of({"method": row[0], "setting": row[1]}) for row in lines} == lines


def test_a_plots_line_goes_through_the_best_settings():
    def row(speedup, psnr, computed=10.0):
        return {"speedup": speedup, "psnr_mean": psnr, "computed_steps": computed, "steps": 20}

    best = [row(3.0, 20.0), row(2.0, 30.0), row(1.5, 40.0)]
    others = [row(2.5, 19.0), row(1.4, 39.0), row(0.98, 100.0, 20.0)]
    assert frontier([others[0], best[2], others[2], best[0], others[1], best[1]]) == best


def test_the_plans_gain_by_hand():
    def found(method, setting, mean, worst, **sampling):
        quality = {"psnr_mean": mean, "psnr_worst_decile": worst}
        facts = {"runner": "comfyui", "model": "adacache_demo_dit", "computed_steps": 12.0, "videos": 4}
        return {"method": method, "setting": setting, **asdict(Sampling(**sampling)), **quality, **facts}

    lines = readme.schedules(
        {
            "rows": [
                found("adacache", "12 computes", 50.0, 44.0),
                found("fixed", "12 computes", 41.0, 46.0),
                found("adacache", "12 computes", 48.0, 43.0, shift=8.0),
                found("fixed", "12 computes", 47.0, 40.0, shift=8.0),
                found("fewer", "12 steps", 10.0, 10.0),  # another comparison
                found("adacache", "10 computes", 99.0, 99.0),  # nothing to compare with
            ]
        }
    )
    assert lines[1] == "+5.0 dB in the median of 2 comparisons, +1.0 dB in the worst, +9.0 dB in the best."
    table = [line for line in lines if line.startswith("| demo")]
    assert len(table) == 2
    assert table[0].endswith("| 12.0 | 50.0 (44.0) dB | 41.0 (46.0) dB | +9.0 (-2.0) dB | 4 |")


def measured(method, setting, computed, mean, runner="comfyui"):
    quality = {"psnr_mean": mean, "psnr_worst_decile": mean - 5, "psnr_fast_motion": mean - 2, "speedup": 1.9}
    facts = {"runner": runner, "model": "adacache_demo_dit", "computed_steps": computed, "videos": 4}
    return {"method": method, "setting": setting, **asdict(MAIN[1]), **quality, **facts}


def test_a_plan_by_motion_stands_beside_one_of_as_many_computes_for_every_video():
    rows = [
        measured("adacache", "8 computes", 8.0, 30.0),
        measured("adacache", "balanced", 10.0, 40.0),
        measured("adacache", "10 computes, MoReg", 9.5, 38.5),
        measured("adacache", "10 computes, finer", 10.0, 99.0),
    ]
    assert readme.moreg({"rows": rows[:2]}) == []
    *_, line = readme.moreg({"rows": rows})
    assert line.endswith("| 9.5 | 37.5 to 38.5 | 32.5 to 33.5 | 35.5 to 36.5 | 4 |")
    *_, unsorted = readme.moreg({"rows": [{**row, "psnr_fast_motion": None} for row in rows]})
    assert unsorted.endswith("| 9.5 | 37.5 to 38.5 | 32.5 to 33.5 | - | 4 |")


def test_a_line_of_finer_steps_has_every_method_of_so_many_evaluations():
    def found(method, setting, evaluations, truth):
        row = {**measured(method, setting, evaluations, 1.0), "truth_psnr": truth, "truth_worst": truth - 9}
        return {**row, "videos": 12}

    rows = [
        found("adacache sampler", "10 evaluations", 10.0, 46.0),
        found("adacache", "10 computes, finer", 10.0, 44.0),
        found("solver", "10 steps, ipndm, beta", 10.0, 41.0),
        found("uncached", "30 steps", 30.0, 42.0),
        found("adacache", "balanced", 10.0, 99.0),  # how close to the uncached video is another question
    ]
    *_, names, _, first, blank, _, _, _, _, ten, thirty, _, _ = readme.finer({"rows": rows})
    assert (first, blank) == (ten, ""), "the rest is folded away"
    assert names.endswith("| videos | evaluations | AdaCache Sampler | AdaCache, finer | ipndm, beta | uncached |")
    assert ten.endswith("| demo | 12 | 10 | 46.0 (37.0) dB | 44.0 (35.0) dB | 41.0 (32.0) dB |  |")
    assert thirty.endswith("| demo | 12 | 30 |  |  |  | 42.0 (33.0) dB |")
    assert readme.finer({"rows": rows[1:]}) == []


def test_of_each_cache_of_diffusers_the_closest_at_half_of_the_work_is_shown():
    rows = [
        measured("seacache", "all", 20.0, 99.0, "diffusers"),
        measured("seacache", "slow", 11.5, 30.0, "diffusers"),
        measured("seacache", "fast", 7.0, 20.0, "diffusers"),
        measured("adacache", "balanced", 10.0, 40.0, "diffusers"),
        measured("adacache", "balanced", 10.0, 50.0),
    ]
    shown = "\n".join(readme.in_diffusers({"rows": rows}))
    assert [line.split(" | ")[0] for line in shown.splitlines()[5:7]] == ["| **AdaCache**", "| SeaCache"]
    assert "| slow |" in shown and "| fast |" not in shown and "| all |" not in shown
    assert "50.0" not in shown


@pytest.mark.long
def test_gpu_script_at_small_size(comfyui_path, tmp_path):
    command = [
        sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--dtype", "float32", "--tiny",
        "--models", "MiniMax", "--out", str(tmp_path / "gpu.json"),
    ]  # fmt: skip
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui_path)}
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    uncached, balanced, fast, finer = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["computed_steps"] for row in (uncached, balanced, fast, finer)] == [20, 10, 7, 10]
    video, sound = 24 * 16 * 16 * 16, 32 * 2 * 16
    assert balanced["cache_bytes"] == (3 + 1) * (video + sound) * 4  # three predictions and a correction, float32
    assert 0 < balanced["skipped_step_seconds"] < balanced["computed_step_seconds"]
    assert uncached["speedup"] == 1.0
    assert (tmp_path / "gpu.png").stat().st_size > 10_000


def test_the_table_of_real_sizes_leaves_out_what_has_no_comparison():
    run = {"model": "A", "size": "small", "seconds": 10.0, "speedup": 1.0}
    half = {"method": "balanced", "seconds": 5.1, "speedup": 1.96, "skipped_step_seconds": 0.001, "cache_bytes": 2**20}
    alone = {"model": "B", "size": "large", "method": "uncached", "seconds": 99.0, "speedup": 1.0}
    rows = [run | {"method": "uncached"}, run | half, alone]
    *_, line = readme.real_sizes({"device": "one", "dtype": "bfloat16", "rows": rows})
    assert line == "| A | small | 10.0 s | 5.1 s, 1.96x | 1.0 ms | 1 MiB |"
