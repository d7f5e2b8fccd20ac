"""AdaCache (Raylight): two workers of Ray's on the CPU, each with a whole tiny Wan, joined by gloo.

A forward needs both (see ``ray_worker.py``), so ranks that decided otherwise would wait for each other, until gloo's
patience ends.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import uuid
from random import Random
from types import SimpleNamespace

import pytest
import torch
from ray_worker import PATIENCE, RayWorker
from tiny_wan import bind, decisions, only_run, planned, runs, sample, text

STEPS = 20
COMPUTED = planned(STEPS)
# Longer than any answer takes here; a wait that this ends is a failure.
WAIT = 60
pytestmark = [pytest.mark.long, pytest.mark.usefixtures("without_gradients")]


class Team:
    """Two workers, as Raylight's loader hands them on."""

    def __init__(self, ray, folder):
        self.ray, self.folder = ray, folder
        self.actors = {"workers": [self.hire(), self.hire()]}
        self.meet()

    def hire(self):
        return self.ray.remote(num_cpus=0)(RayWorker).remote()

    def meet(self):
        # A start takes long where much else runs, longer than the patience of those who meet.
        self.ray.get([actor.get_parallel_dict.remote() for actor in self.actors["workers"]], timeout=5 * WAIT)
        meeting, workers = str(self.folder / uuid.uuid4().hex), self.actors["workers"]
        self.get([worker.join.remote(rank, len(workers), meeting) for rank, worker in enumerate(workers)])

    def tell(self, method, *arguments):
        """Call a method of every worker itself, whatever is around it."""
        return self.get([getattr(actor, method).remote(*arguments) for actor in self.actors["workers"]])

    def get(self, references):
        return self.ray.get(references, timeout=WAIT)

    def bind(self, preset="balanced", pack="adacache", node_id=None, **choices):
        settings = sys.modules[f"{pack}.nodes.settings"].Settings(preset, **choices)
        return sys.modules[f"{pack}.nodes.raylight"].bind(self.actors, settings, node_id)

    def sample_each(self, actors, *each):
        """As Raylight's samplers: every worker samples, each with its own arguments; gives what each made."""
        workers = (actors or self.actors)["workers"]
        each = [{"seed": 1, "steps": STEPS, **arguments} for arguments in each]
        return self.get([w.common_ksampler.remote(**given) for w, given in zip(workers, each, strict=True)])

    def sample(self, actors=None, **arguments):
        """One video by both: gives what rank 0 made, equal to what rank 1 did."""
        one, two = self.sample_each(actors, arguments, arguments)
        assert torch.equal(one, two)
        return one

    def end(self):
        for actor in self.actors["workers"]:
            self.ray.kill(actor)


@pytest.fixture(scope="module")
def ray(pack):
    """Ray on this machine, with nothing that talks to another."""
    import warnings

    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # else workers starve beside other tests
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        ray.init(
            "local",
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            logging_level="ERROR",
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}},
        )
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def workers(ray, tmp_path_factory):
    made = Team(ray, tmp_path_factory.mktemp("meeting"))
    yield made
    made.end()


@pytest.fixture
def team(workers):
    """After every test: no wrapper and no tensor of a run in any worker."""
    workers.tell("set_parallel_dict", {})
    before = workers.tell("get_left")
    yield workers
    assert workers.tell("get_left") == before
    assert [things for _, things in before] == [[], []]


@pytest.fixture
def one_condition_a_call(monkeypatch):
    """As with little memory: the same matrix products as with a worker for every condition."""
    from comfy.model_patcher import ModelPatcher

    monkeypatch.setattr(ModelPatcher, "get_free_memory", lambda self, device: 0)


@pytest.mark.parametrize("preset", ["quality", "balanced", "fast"])
def test_two_workers_sample_like_one_process_to_the_bit(wan, team, preset):
    alone, of_alone = bind(wan, preset)
    expected = sample(alone, steps=STEPS)
    cached, log = team.bind(preset)
    assert torch.equal(team.sample(cached), expected)
    run, one = only_run(log), only_run(of_alone)
    assert team.tell("count_forwards") == [run.count("computed")] * 2 == [one.count("computed")] * 2
    assert decisions(run) == decisions(one)
    assert (run.settings, run.plan, run.cache_bytes) == (one.settings, one.plan, one.cache_bytes)
    assert run.finished


@pytest.mark.usefixtures("one_condition_a_call")
def test_a_worker_for_each_condition(wan, team):
    """CFG parallelism: both have both predictions, for they exchange them below the cache."""
    team.tell("set_parallel_dict", {"cfg_degree": 2})
    alone, _ = bind(wan)
    cached, log = team.bind()
    assert torch.equal(team.sample(cached), sample(alone, steps=STEPS))
    assert team.tell("count_forwards") == [COMPUTED] * 2
    assert only_run(log).conditions == 2


@pytest.mark.usefixtures("one_condition_a_call")
def test_a_condition_that_comes_late_finds_both_workers(wan, team):
    """CFG parallelism splits two conditions and refuses one."""
    from nodes import ConditioningSetTimestepRange

    team.tell("set_parallel_dict", {"cfg_degree": 2})
    [early] = ConditioningSetTimestepRange().set_range(text(8), 0.0, 0.67)
    [late] = ConditioningSetTimestepRange().set_range(text(9), 0.67, 1.0)
    alone, of_alone = bind(wan, "fast")
    cached, log = team.bind("fast")
    negative = [*early, *late]
    assert torch.equal(team.sample(cached, negative=negative), sample(alone, negative=negative, steps=STEPS))
    computed = [record.computed_calls for record in only_run(log).steps]
    assert computed == [record.computed_calls for record in only_run(of_alone).steps]
    assert set(computed) == {0, 2}
    assert "new condition" in {record.reason for record in only_run(log).steps}


def test_what_moves_is_agreed_on(wan, team):
    """Raylight's workers may sample a video each (FSDP): still all compute, or none."""
    from adacache.adacache_core.paper.measure import MotionRegularization

    team.tell("set_parallel_dict", {"is_fsdp": True})
    moving = torch.randn(1, 16, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    still = moving[:, :, :1].expand_as(moving)
    shares = []
    for noise in (moving, still):
        alone, of_alone = bind(wan, moreg=MotionRegularization())
        sample(alone, noise=noise, cfg=1.0, steps=STEPS)
        shares.append(only_run(of_alone).motion_share)
    assert shares[0] > shares[1]
    cached, log = team.bind(moreg=MotionRegularization())
    team.sample_each(cached, *({"noise": noise, "cfg": 1.0} for noise in (still, moving)))
    assert only_run(log).motion_share == shares[0]
    one, two = team.tell("count_forwards")
    assert one == two


def test_a_second_prompt_without_the_node_is_not_cached(wan, team):
    """Raylight's own patches would stay with the workers."""
    plain = sample(wan, steps=STEPS)
    balanced, of_balanced = team.bind()
    fast, of_fast = team.bind("fast")
    made = [team.sample(actors) for actors in (None, balanced, fast, balanced, None)]
    assert torch.equal(made[0], plain)
    assert torch.equal(made[4], plain)
    assert torch.equal(made[1], made[3])
    assert not torch.equal(made[1], plain)
    assert not torch.equal(made[1], made[2])
    assert [decisions(run) for run in runs(of_balanced)] == [decisions(runs(of_balanced)[0])] * 2
    assert only_run(of_fast).count("computed") < COMPUTED


def test_other_methods_of_the_workers_are_as_they_were(team):
    cached, _ = team.bind()
    assert team.get([worker.get_parallel_dict.remote() for worker in cached["workers"]]) == [{}, {}]
    with pytest.raises(AttributeError):
        _ = cached["workers"][0].no_such_method


def test_it_travels_under_the_name_that_comfyui_gives_a_pack(wan, team, comfyui_path, tmp_path):
    """``custom_nodes.py`` names a pack by its path, which no other process can import."""
    import importlib.util

    from demo.comfyui import REPOSITORY

    folder = tmp_path / "custom_nodes" / "ada.cache"
    folder.parent.mkdir()
    folder.symlink_to(REPOSITORY, target_is_directory=True)
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        cached, log = team.bind(pack=name)
        alone, _ = bind(wan)
        assert torch.equal(team.sample(cached), sample(alone, steps=STEPS))
        assert type(only_run(log)).__module__.startswith(name)
    finally:
        for known in [known for known in sys.modules if known.startswith(name)]:
            del sys.modules[known]


def test_what_does_not_go_is_refused_before_sampling(team):
    from adacache.adacache_core import ConfigurationError

    cached, _ = team.bind()
    with pytest.raises(ConfigurationError, match="already have an AdaCache"):
        sys.modules["adacache.nodes.raylight"].bind(cached, sys.modules["adacache.nodes.settings"].Settings(), None)
    with pytest.raises(ConfigurationError, match="paper-fast compares residuals inside the model"):
        team.bind("paper-fast")

    def with_easycache(model):
        model.model_options["transformer_options"]["easycache"] = None
        return model

    def without(model):
        del model.model_options["transformer_options"]["easycache"]
        return model

    team.tell("model_function_runner", with_easycache)
    with pytest.raises(ConfigurationError, match="already has a cache, EasyCache"):
        team.bind()
    team.tell("model_function_runner", without)
    team.tell("set_parallel_dict", {"pipefusion_enabled": True})
    with pytest.raises(ConfigurationError, match="PipeFusion"):
        team.bind()


@pytest.mark.parametrize("kind", ["interrupt", "oom"])
@pytest.mark.parametrize("ranks", [(0, 1), (1,)], ids=["everywhere", "on one rank"])
def test_after_an_error_the_next_prompt_is_as_if_nothing_had_been(team, kind, ranks):
    cached, log = team.bind()
    expected = team.sample(cached)
    for rank in ranks:
        team.get(team.actors["workers"][rank].plan_trouble.remote(kind, COMPUTED // 2))
    started = time.monotonic()
    with pytest.raises(team.ray.exceptions.RayTaskError):
        team.sample(cached)
    team.tell("plan_trouble")
    assert time.monotonic() - started < PATIENCE + 5
    assert [run.finished for run in runs(log)] == [True, False]
    if len(ranks) == 1:
        team.meet()
    assert torch.equal(team.sample(cached), expected)


def test_a_rank_that_is_late_is_waited_for(team):
    cached, _ = team.bind()
    expected = team.sample(cached)
    team.get(team.actors["workers"][1].plan_trouble.remote("late", 2))
    assert torch.equal(team.sample(cached), expected)
    team.tell("plan_trouble")


def test_progress_is_seen_while_the_workers_sample(team, monkeypatch):
    seen = []
    log = sys.modules["adacache.nodes.ray_log"]
    monkeypatch.setattr(log, "reporter", lambda node_id: lambda run: seen.append((node_id, len(run.steps))))
    monkeypatch.setattr(log, "SECONDS_APART", 0.05)
    cached, of_cached = team.bind(node_id="7")
    team.get(team.actors["workers"][1].plan_trouble.remote("late", 5))
    team.sample(cached)
    team.tell("plan_trouble")
    only_run(of_cached)
    assert {node for node, _ in seen} == {"7"}
    steps = [count for _, count in seen]
    assert steps == sorted(steps)
    assert len({0, *steps, STEPS}) > 2 and steps[-1] == STEPS


def test_two_hundred_prompts_with_interrupts_a_full_memory_and_late_ranks(wan, team):
    """Every answer comes within a bound and has the right bits; workers hold at the end what they held at the start."""
    random = Random(18)
    small = {"steps": 8, "frames": 3}
    presets, seeds = (None, "quality", "balanced", "fast"), (1, 2)
    expected = {}
    for preset in presets:
        patched = wan if preset is None else bind(wan, preset)[0]
        expected |= {(preset, seed): sample(patched, seed=seed, **small) for seed in seeds}
    bound = {preset: team.bind(preset)[0] for preset in presets[1:]}
    kinds = [*["interrupt"] * 20, *["oom"] * 4, *["late"] * 4]
    trouble = dict(zip(random.sample(range(200), len(kinds)), random.sample(kinds, len(kinds)), strict=True))
    sizes = []
    for number in range(200):
        preset, seed = random.choice(presets), random.choice(seeds)
        kind, at = trouble.get(number), random.randrange(3)
        # An interrupt reaches every rank; the others are one rank's trouble.
        for worker in team.actors["workers"] if kind == "interrupt" else random.sample(team.actors["workers"], 1):
            team.get(worker.plan_trouble.remote(kind, at))
        try:
            assert torch.equal(team.sample(bound.get(preset), seed=seed, **small), expected[preset, seed])
            assert kind in (None, "late")
        except team.ray.exceptions.RayTaskError:
            assert kind in ("interrupt", "oom")
        team.tell("plan_trouble")
        if kind == "oom":
            team.meet()
        if number % 50 == 49:
            sizes.append((team.tell("get_left"), team.tell("get_resident")))
    assert all(left == sizes[0][0] for left, _ in sizes)
    for first, last in zip(sizes[0][1], sizes[-1][1], strict=True):
        assert last - first < 10 * 2**20, sizes


def test_a_worker_that_dies_is_an_error_and_its_successor_starts_clean(workers):
    """Not with the fixture ``team``: the dead one has nothing left to look at."""
    workers.tell("set_parallel_dict", {})
    cached, log = workers.bind()
    expected = workers.sample(cached)
    workers.get(workers.actors["workers"][1].plan_trouble.remote("die", 3))
    with pytest.raises(workers.ray.exceptions.RayError):
        workers.sample(cached)
    with pytest.raises(workers.ray.exceptions.RayActorError):
        workers.get(workers.actors["workers"][1].get_parallel_dict.remote())
    with pytest.raises(workers.ray.exceptions.RayActorError):
        workers.bind()
    assert [run.finished for run in runs(log)] == [True, False]
    workers.actors["workers"][1] = workers.hire()
    workers.meet()
    assert [things for _, things in workers.tell("get_left")] == [[], []]
    cached, _ = workers.bind()
    assert torch.equal(workers.sample(cached), expected)


def test_the_node_is_there_only_beside_raylight(pack, monkeypatch, tmp_path):
    import folder_paths

    raylight = sys.modules["adacache.nodes.raylight"]
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda name: [str(tmp_path)])
    assert not raylight.installed()
    for folder, there in (("raylight.disabled", False), ("Raylight", True)):
        (tmp_path / folder / "src" / "raylight").mkdir(parents=True)
        (tmp_path / folder / "src" / "raylight" / "nodes.py").touch()
        assert raylight.installed() is there
    assert raylight.AdaCacheRaylight not in sys.modules["adacache.nodes"].NODES


def test_the_node_asks_for_what_adacache_asks_for(team, monkeypatch):
    raylight = sys.modules["adacache.nodes.raylight"]
    monkeypatch.setattr(raylight.AdaCacheRaylight, "hidden", SimpleNamespace(unique_id="7"))
    shown = raylight.AdaCacheRaylight.define_schema()
    assert [one.id for one in shown.inputs] == ["ray_actors", "preset", "moreg", "finer"]
    assert [one.io_type for one in shown.outputs] == ["RAY_ACTORS", "ADACACHE_STATISTICS"]
    assert [option.key for option in shown.inputs[1].options] == ["balanced", "quality", "fast", "target"]
    chosen = {"preset": "target", "target_speedup": 4.0}
    cached, log = raylight.AdaCacheRaylight.execute(team.actors, preset=chosen, moreg=False).args
    team.sample(cached)
    assert only_run(log).count("computed") == STEPS / 4
