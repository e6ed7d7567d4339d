"""Which estimator finds optical flow: DIS, built in, or RAFT, the extra ``raft``."""

from typing import Literal

from models.conditions import optical_flow, raft
from models.context import Context
from models.params import Params as BaseParams
from models.params import param
from models.types import Clip

VERSION = 1

ESTIMATORS = {"dis": optical_flow, "raft": raft}


class Params(BaseParams):
    """How optical flow is found."""

    flow_estimator: Literal["dis", "raft"] = param("dis", stage="invert", advanced=True)
    """dis: OpenCV's, fast, on the processor; raft: torchvision's network, finer, needs the extra `raft`."""


def forward(ctx: Context, p: Params, clip: Clip) -> optical_flow.Flow:
    """Flow from every frame but the last to the one after it, cached for all methods."""
    return ctx.condition(ESTIMATORS[p.flow_estimator].forward, clip)


def backward(ctx: Context, p: Params, clip: Clip) -> optical_flow.Flow:
    """Flow from every frame but the first to the one before it, cached for all methods."""
    return ctx.condition(ESTIMATORS[p.flow_estimator].backward, clip)
