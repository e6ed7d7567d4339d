"""Error codes a job can end with: who can mend it, whether trying again helps, whether it is billed, what to do."""

from typing import Literal, NamedTuple

Fixer = Literal["caller", "operator", "nobody"]


class CodeFacts(NamedTuple):
    """What a code means for the caller. `title` is one sentence in plain words.

    `hint` says what to do where the error itself says nothing better; every job that fails has one.
    """

    title: str
    retryable: bool
    billed: bool
    fixed_by: Fixer
    hint: str


JOB_CODES: dict[str, CodeFacts] = {
    "input.invalid": CodeFacts(
        "The input cannot be used", False, False, "caller", "change the clip or its trim, then edit again"
    ),
    "input.not_video": CodeFacts(
        "The input is not a video", False, False, "caller", "send a video as the clip: mp4, mov, webm, mkv or gif"
    ),
    "input.decode_failed": CodeFacts(
        "The video cannot be decoded",
        False,
        False,
        "caller",
        "see whether the file is complete and plays, or convert it to mp4 (H.264) first",
    ),
    "input.no_frames": CodeFacts(
        "The video has no frames", False, False, "caller", "choose a trim that lies inside the clip, then edit again"
    ),
    "input.too_long": CodeFacts("The video is too long", False, False, "caller", "trim the clip, or set max_frames"),
    "input.too_large": CodeFacts(
        "The file is too large", False, False, "caller", "send a smaller file: cut or compress the clip"
    ),
    "input.too_large_frame": CodeFacts(
        "The frames are too large", False, False, "caller", "scale the clip down before it is uploaded"
    ),
    "input.fetch_failed": CodeFacts(
        "The input could not be fetched", True, False, "caller", "upload the file again and edit with the new asset"
    ),
    "url_not_allowed": CodeFacts(
        "The input's address may not be called",
        False,
        False,
        "caller",
        "use an https address on the internet without redirects inside, or upload the file",
    ),
    "validation_failed": CodeFacts(
        "The parameters are not valid together",
        False,
        False,
        "caller",
        "change the parameters that errors names, then edit again",
    ),
    "unknown_method": CodeFacts(
        "This worker does not know the method",
        False,
        False,
        "operator",
        "choose one of GET /v1/methods; if it is listed, the workers are older than the API: update them",
    ),
    "missing_condition": CodeFacts(
        "The method needs an input that was not given",
        False,
        False,
        "caller",
        "add the file that the message names to input.files, then edit again",
    ),
    "policy.input.text": CodeFacts(
        "The prompt is refused by policy", False, False, "caller", "change the prompt, then edit again"
    ),
    "policy.input.video": CodeFacts("The input is refused by policy", False, False, "caller", "use another clip"),
    "policy.output.video": CodeFacts(
        "The result is refused by policy", False, True, "caller", "change the prompt or the clip, then edit again"
    ),
    "provenance.unavailable": CodeFacts(
        "Results cannot be signed on this worker",
        True,
        False,
        "operator",
        "look at the certificate and the key in REFILM_PROVENANCE_CERTIFICATES and REFILM_PROVENANCE_KEY, then retry",
    ),
    "provenance.failed": CodeFacts(
        "The result could not be signed",
        True,
        False,
        "operator",
        "retry; if it comes again, look into the worker's log, or edit without provenance where the service allows it",
    ),
    "model.unavailable": CodeFacts(
        "The model weights are not available",
        True,
        False,
        "operator",
        "set REFILM_CHECKPOINT, or the edit's model, to weights this service can read, then retry",
    ),
    "model.integrity": CodeFacts(
        "The model weights do not match their digest",
        False,
        False,
        "operator",
        "fetch the weights anew; what is stored is not what was published",
    ),
    "gpu.out_of_memory": CodeFacts(
        "The job does not fit the device's memory",
        True,
        True,
        "caller",
        "edit fewer frames (max_frames) or a smaller size (width, height)",
    ),
    "gpu.fatal": CodeFacts(
        "The device failed",
        True,
        False,
        "operator",
        "retry; if it comes again, look after the device of the worker named here",
    ),
    "worker_lost": CodeFacts(
        "The workers running this job were lost, all attempts are used",
        True,
        False,
        "operator",
        "retry: finished stages are kept; if it comes again, look at the workers' logs and memory",
    ),
    "stage_timeout": CodeFacts(
        "A stage made no progress",
        True,
        False,
        "operator",
        "retry; if it comes again, give the stage more time or edit fewer frames",
    ),
    "deadline_start": CodeFacts(
        "The job did not start before its deadline",
        True,
        False,
        "nobody",
        "retry with a later deadline, or at a quieter time",
    ),
    "deadline_finish": CodeFacts(
        "The job did not finish before its deadline",
        True,
        True,
        "nobody",
        "retry with a later deadline, or edit fewer frames; finished stages are kept",
    ),
    "storage_unavailable": CodeFacts(
        "The object store cannot be reached", True, False, "operator", "retry when the object store answers again"
    ),
    "canceled": CodeFacts("The job was canceled", True, True, "caller", "retry goes on after the last finished stage"),
    "internal": CodeFacts(
        "An internal error; quote the log id",
        True,
        False,
        "operator",
        "retry; if it comes again, report it with the log id",
    ),
}
