"""Motion regularisation for plans: more computes for a video in which much moves, by its first predictions.

AdaCache's MoReg (arXiv 2411.02397, Sec. 3.3) compares the latent frames of residuals and multiplies a distance by the
result; that is in ``paper/``. A plan has no distance. What moves in its predictions, frame by frame, sets its number of
computes instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

# The compute at which motion is measured: before it a prediction is mostly blur.
MEASURED_AT = 4
# Motion of a usual video, without guidance and in what guidance adds; of 40 scenes from still to fast each.
_USUAL, _USUAL_GUIDANCE = 0.8, 1.0
# Computes are multiplied by this power of the motion over the usual one, within these bounds.
_CONTRAST, _LEAST, _MOST = 0.8, 0.9, 1.3


def motion(video: Tensor) -> float:
    """Change from frame to frame over the deviation from the mean, both root mean squares; 0 where nothing moves.

    Args:
        video: ``[B, C, T, H, W]`` with T > 1.
    """
    video = video.float()
    change = (video[:, :, 1:] - video[:, :, :-1]).square().mean()
    spread = (video - video.mean(dim=(2, 3, 4), keepdim=True)).square().mean()
    return float((change / spread).sqrt().nan_to_num(0.0))


def motion_share(predictions: Sequence[Tensor]) -> float | None:
    """What to multiply a plan's computes by, 0.9 to 1.3; None where there are no frames to compare.

    Args:
        predictions: of the conditions of one evaluation. With two, what they differ in counts: that is what the prompt
            asks for.
    """
    own = _share(predictions)
    agreed = _most(_LEAST if own is None else own)
    return None if own is None else agreed


def _share(predictions: Sequence[Tensor]) -> float | None:
    if not 1 <= len(predictions) <= 2 or any(x.ndim != 5 or x.shape[2] < 2 for x in predictions):
        return None
    if len(predictions) == 2:
        relative = motion(predictions[0] - predictions[1]) / _USUAL_GUIDANCE
    else:
        relative = motion(predictions[0]) / _USUAL
    share: float = relative**_CONTRAST
    return min(max(share, _LEAST), _MOST)


def _most(share: float) -> float:
    """The largest share among the processes that sample together, if there are others: they compute together or none.

    One video's predictions are the same everywhere but for the rounding of unlike GPUs, which may decide. Where weights
    are spread (FSDP), each may have a video of its own, and still none can compute alone.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return share
    device = "cuda" if "nccl" in distributed.get_backend() else "cpu"
    shares = torch.tensor(share, dtype=torch.float64, device=device)
    distributed.all_reduce(shares, op=distributed.ReduceOp.MAX)
    return float(shares)
