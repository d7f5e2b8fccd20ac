"""adacache_core stands alone: it never imports ComfyUI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROBE = """
import sys
sys.path.insert(0, {root!r})
{extra}
import adacache_core
ours = {{"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "nodes"}}
loaded = sorted(name for name in sys.modules if name.split(".")[0] in ours)
assert not loaded, loaded
"""


def probe(extra: str = "") -> subprocess.CompletedProcess[str]:
    code = PROBE.format(root=str(ROOT), extra=extra)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_core_imports_without_comfyui():
    result = probe()
    assert result.returncode == 0, result.stderr


def test_this_test_would_notice_comfyui():
    result = probe("import types; sys.modules['comfy.samplers'] = types.ModuleType('comfy.samplers')")
    assert "AssertionError: ['comfy.samplers']" in result.stderr
