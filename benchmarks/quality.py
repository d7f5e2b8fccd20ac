"""How far a cached video is from the uncached one."""

from __future__ import annotations

from typing import Any

import numpy as np

from demo.demo import psnr, ssim

Frames = np.ndarray[Any, np.dtype[np.uint8]]
EQUAL_DB = 100.0  # stands for the PSNR of equal videos, so that means exist


def compare(frames: Frames, reference: Frames) -> dict[str, float]:
    """Compare two clips ``[F, H, W, 3]`` of one prompt and seed.

    Returns:
        ``psnr`` in dB over the whole clip; ``ssim``, mean over frames; ``temporal_error``, mean absolute difference of
        the changes from frame to frame, 0..255; ``motion_ratio``, size of the changes relative to the reference's,
        below 1 where motion is lost.
    """
    changes, expected = np.diff(frames.astype(np.float32), axis=0), np.diff(reference.astype(np.float32), axis=0)
    return {
        "psnr": psnr(frames, reference) or EQUAL_DB,
        "ssim": ssim(frames, reference),
        "temporal_error": float(np.abs(changes - expected).mean()),
        "motion_ratio": float(np.abs(changes).mean() / max(np.abs(expected).mean(), 1e-6)),
    }
