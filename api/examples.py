"""Requests as they may be sent: shown in the OpenAPI document, sent by the tests."""

import json
from typing import Any

ASSET_ID = "ast_01k9v3x7q8f4d2m6n0c5b1a7gh"
JOB_ID = "job_01k9v3x7q8f4d2m6n0c5b1a7gh"
EDITS: Any = {
    "shortest": {
        "summary": "The clip, the method and what the result shows",
        "value": {
            "method": "frame_by_frame",
            "input": {"video": {"asset": ASSET_ID}},
            "prompt": {"source": "a red ball rolling on grass", "target": "a blue ball rolling on grass"},
        },
    },
    "everything": {
        "summary": "A part of the clip, parameters of the method, a deadline and labels",
        "value": {
            "method": "frame_by_frame",
            "input": {"video": {"asset": ASSET_ID}, "trim": {"start": 0.0, "end": 1.0}},
            "prompt": {"source": "a red ball", "target": "a blue ball", "negative": "blurred"},
            "params": {"num_inference_steps": 20, "guidance_scale": 7.5, "seed": 42},
            "output": {"container": "mp4", "expires_in": 604800},
            "priority": "standard",
            "deadline": {"start_within": 1800, "finish_within": 5400},
            "labels": {"project": "demo"},
            "metadata": {"any": "returned as it is"},
        },
    },
}
BATCH_ID = "bat_01k9v3x7q8f4d2m6n0c5b1a7gh"
BATCHES: Any = {
    "matrix": {
        "summary": "Two clips, two prompts, two methods: eight jobs",
        "value": {
            "videos": [
                {"video": {"asset": ASSET_ID}, "source": "a red ball rolling on grass"},
                {"video": {"asset": ASSET_ID}, "trim": {"start": 0.0, "end": 1.0}},
            ],
            "prompts": [{"target": "a blue ball rolling on grass"}, {"target": "a red ball rolling on snow"}],
            "methods": [{"method": "frame_by_frame"}, {"method": "tokenflow", "params": {"num_inference_steps": 20}}],
            "params": {"seed": 42},
            "labels": {"project": "demo"},
        },
    },
}
BATCH_LINES: Any = {
    "list": {
        "summary": "One edit a line",
        "value": "".join(json.dumps(example["value"]) + "\n" for example in EDITS.values()),
    },
}
