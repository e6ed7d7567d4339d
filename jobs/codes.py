"""Error codes a job can end with: who can mend it, whether trying again helps, whether it is billed."""

from typing import Literal, NamedTuple

Fixer = Literal["caller", "operator", "nobody"]


class CodeFacts(NamedTuple):
    """What a code means for the caller. `title` is one sentence in plain words."""

    title: str
    retryable: bool
    billed: bool
    fixed_by: Fixer


JOB_CODES: dict[str, CodeFacts] = {
    "input.invalid": CodeFacts("The input cannot be used", False, False, "caller"),
    "input.not_video": CodeFacts("The input is not a video", False, False, "caller"),
    "input.decode_failed": CodeFacts("The video cannot be decoded", False, False, "caller"),
    "input.no_frames": CodeFacts("The video has no frames", False, False, "caller"),
    "input.too_long": CodeFacts("The video is too long", False, False, "caller"),
    "input.too_large": CodeFacts("The file is too large", False, False, "caller"),
    "input.too_large_frame": CodeFacts("The frames are too large", False, False, "caller"),
    "input.fetch_failed": CodeFacts("The input could not be fetched", True, False, "caller"),
    "validation_failed": CodeFacts("The parameters are not valid together", False, False, "caller"),
    "unknown_method": CodeFacts("This worker does not know the method", False, False, "operator"),
    "missing_condition": CodeFacts("The method needs an input that was not given", False, False, "caller"),
    "policy.input.text": CodeFacts("The prompt is refused by policy", False, False, "caller"),
    "policy.input.video": CodeFacts("The input is refused by policy", False, False, "caller"),
    "policy.output.video": CodeFacts("The result is refused by policy", False, True, "caller"),
    "model.unavailable": CodeFacts("The model weights are not available", True, False, "operator"),
    "model.integrity": CodeFacts("The model weights do not match their digest", False, False, "operator"),
    "gpu.out_of_memory": CodeFacts("The job does not fit the device's memory", True, True, "caller"),
    "gpu.fatal": CodeFacts("The device failed", True, False, "operator"),
    "worker_lost": CodeFacts("The workers running this job were lost, all attempts are used", True, False, "operator"),
    "stage_timeout": CodeFacts("A stage made no progress", True, False, "operator"),
    "deadline_start": CodeFacts("The job did not start before its deadline", True, False, "nobody"),
    "deadline_finish": CodeFacts("The job did not finish before its deadline", True, True, "nobody"),
    "storage_unavailable": CodeFacts("The object store cannot be reached", True, False, "operator"),
    "canceled": CodeFacts("The job was canceled", True, True, "caller"),
    "internal": CodeFacts("An internal error; quote the log id", True, False, "operator"),
}
