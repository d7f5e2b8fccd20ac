"""The Token Refresh node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..adacache_core.tokens.choice import OPEN_SORA, RANDOM, TokenRefresh
from .types import EXPERIMENTAL, Refresh

CUSTOM = "custom"
_DEVICES = {"same device": None, "system memory": "cpu"}
_PRESETS = {"open-sora": OPEN_SORA, "random": RANDOM}
_DEFAULTS = OPEN_SORA


class TokenRefreshSettings(io.ComfyNode):
    """Settings of token refresh (ToCa), to plug into AdaCache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AdaCacheTokenRefresh",
            display_name="Token Refresh",
            category=EXPERIMENTAL,
            description=(
                "Token-wise caching (ToCa) for AdaCache: a step that would be skipped computes a part of the tokens "
                "instead, and keeps self-attention from the last full step. Needs much memory."
            ),
            search_aliases=["toca", "token-wise caching", "partial step"],
            is_experimental=True,
            inputs=[
                io.DynamicCombo.Input(
                    "preset",
                    options=[
                        *(io.DynamicCombo.Option(preset, []) for preset in _PRESETS),
                        io.DynamicCombo.Option(CUSTOM, _custom()),
                    ],
                    tooltip=(
                        "How tokens are chosen. open-sora is close to the paper's setting for that model, random draws "
                        "them, custom has weights and factors of yours."
                    ),
                ),
                io.Float.Input(
                    "ratio",
                    default=_DEFAULTS.ratio,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Part of the tokens that a partial step computes; at 1 every step is computed in full.",
                ),
                # Not "seed": the front end would put a control for the next run behind it.
                io.Int.Input(
                    "random_seed",
                    default=_DEFAULTS.seed,
                    min=0,
                    max=2**53 - 1,
                    advanced=True,
                    tooltip="Of the random numbers: the same seed chooses the same tokens.",
                ),
                io.Combo.Input(
                    "device",
                    options=list(_DEVICES),
                    default="same device",
                    advanced=True,
                    tooltip="Where the blocks' outputs are kept. System memory frees the GPU's and is slower.",
                ),
            ],
            outputs=[Refresh.Output("token_refresh", display_name="Token Refresh", tooltip="Connect it to AdaCache.")],
        )

    @classmethod
    def execute(
        cls, preset: dict[str, Any], ratio: float, random_seed: int, device: str = "same device"
    ) -> io.NodeOutput:
        kind, custom = preset["preset"], {name: value for name, value in preset.items() if name != "preset"}
        base = _PRESETS.get(kind) or TokenRefresh(**custom)
        return io.NodeOutput(replace(base, ratio=ratio, seed=random_seed, device=_DEVICES[device]))


def _custom() -> list[io.Input]:
    """What the preset of that name brings."""
    return [
        _weight("influence", "Weight of the attention that other tokens pay to a token. Slow on long videos."),
        _weight("entropy", "Weight of how evenly a token attends to the prompt; for cross-attention only."),
        _weight("age", "Weight of the time since a token was computed."),
        _weight("spread", "Bonus for the best token of each cell, so that choices cover the frame."),
        _weight("random", "Weight of a random number."),
        io.Int.Input(
            "cell",
            default=_DEFAULTS.cell,
            min=1,
            max=16,
            tooltip="Edge of a cell in tokens, for spread: 2 or 4 in the paper.",
        ),
        _weight("cross_attention", "Cross-attention's share of the ratio; 0 replays it.", step=0.1),
        _weight("mlp", "The MLP's share of the ratio; 0 replays it.", step=0.1),
        io.Float.Input(
            "depth",
            default=_DEFAULTS.depth,
            min=-1.0,
            max=1.0,
            step=0.05,
            tooltip="Above 0 the first blocks compute more tokens and the last ones fewer.",
        ),
    ]


def _weight(name: str, tooltip: str, step: float = 0.05) -> io.Float.Input:
    return io.Float.Input(name, default=getattr(_DEFAULTS, name), min=0.0, max=10.0, step=step, tooltip=tooltip)
