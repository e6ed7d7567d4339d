"""What a caller asks for: the body of `POST /v1/edits`. Strict, frozen, unknown fields are errors."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_core import to_json

Priority = Literal["interactive", "standard", "batch", "background"]
BROKER_PRIORITY: dict[Priority, int] = {"interactive": 0, "standard": 3, "batch": 6, "background": 9}

Adherence = Literal[
    "adhere_1", "adhere_2", "adhere_3", "flex_1", "flex_2", "flex_3", "reimagine_1", "reimagine_2", "reimagine_3"
]
MethodId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
ModelRef = Annotated[str, StringConstraints(min_length=1, max_length=200)]
UploadId = Annotated[str, StringConstraints(pattern=r"^upl_[0-9a-v]{26}$")]
AssetId = Annotated[str, StringConstraints(pattern=r"^ast_[0-9a-v]{26}$")]
InputName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
EndpointId = Annotated[str, StringConstraints(pattern=r"^whe_[0-9a-v]{26}$")]
EventName = Literal[
    "job.*",
    "job.queued",
    "job.running",
    "job.finalizing",
    "job.canceling",
    "job.succeeded",
    "job.failed",
    "job.canceled",
    "job.expired",
    "batch.completed",
]
ENDINGS: tuple[EventName, ...] = ("job.succeeded", "job.failed", "job.canceled", "job.expired", "batch.completed")
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.\-]{1,63}$")]
LabelValue = Annotated[str, StringConstraints(max_length=128)]
Prompt = Annotated[str, StringConstraints(max_length=2000)]

METADATA_BYTES = 4096
MOST_FILES = 64


def _small(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if len(to_json(value)) > METADATA_BYTES:
        raise ValueError(f"metadata is larger than {METADATA_BYTES} bytes")
    return value


Params = Annotated[dict[str, JsonValue], Field(max_length=200)]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=16)]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(_small)]


class Strict(BaseModel):
    """Base of everything a caller sends: frozen, and an unknown field is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class AssetRef(Strict):
    """A file: one the caller has brought before, an upload that is completed with the request, or the address of one
    that is fetched while the job is `accepted`.
    """

    asset: AssetId | None = None
    upload: UploadId | None = None
    url: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(given is not None for given in (self.asset, self.upload, self.url)) != 1:
            raise ValueError("give one of asset, upload and url")
        return self


class Trim(Strict):
    """The part of the clip to edit, in seconds from its beginning."""

    start: float = Field(default=0.0, ge=0)
    end: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end is not None and self.end <= self.start:
            raise ValueError("end must be after start")
        return self


class EditInput(Strict):
    """The clip, the part of it, and whatever else the method takes (masks, a pose clip), by the method's names."""

    video: AssetRef
    trim: Trim | None = None
    files: dict[InputName, AssetRef | tuple[AssetRef, ...]] = Field(default_factory=dict, max_length=16)

    @field_validator("files")
    @classmethod
    def _few(cls, value: dict[str, AssetRef | tuple[AssetRef, ...]]) -> dict[str, AssetRef | tuple[AssetRef, ...]]:
        if sum(1 if isinstance(item, AssetRef) else len(item) for item in value.values()) > MOST_FILES:
            raise ValueError(f"more than {MOST_FILES} files")
        return value


class PromptSet(Strict):
    """Texts: what the result shows, what the source shows, what to avoid."""

    target: Prompt = ""
    source: Prompt = ""
    negative: Prompt = ""


class PreviewOptions(Strict):
    """Pictures of the edit while it is made: after how many steps, and how many pixels their longer side has."""

    every_steps: int = Field(default=10, ge=1, le=1000)
    max_px: int = Field(default=256, ge=64, le=1024)


class OutputOptions(Strict):
    """Container of the result, previews on the way to it, how long they are kept, and whether the result is signed.

    `provenance` left out is the server's own choice. What is signed holds the prompts only with `provenance_prompt`.
    """

    container: Literal["mp4", "gif", "webp"] = "mp4"
    preview: PreviewOptions | None = None
    expires_in: int | None = Field(default=None, ge=60, le=30 * 86400)
    provenance: Literal["c2pa", "none"] | None = None
    provenance_prompt: bool = False


class CacheOptions(Strict):
    """`use` reads and writes finished stages, `refresh` recomputes and rewrites them, `off` does neither."""

    inversion: Literal["use", "refresh", "off"] = "use"


class Deadline(Strict):
    """Seconds after creation by which the job must have started or ended."""

    start_within: int | None = Field(default=None, ge=1, le=30 * 86400)
    finish_within: int | None = Field(default=None, ge=1, le=30 * 86400)


class WebhookRef(Strict):
    """Where the job tells how it goes: an endpoint of the caller's, and of which events."""

    endpoint: EndpointId
    events: tuple[EventName, ...] = Field(default=ENDINGS, min_length=1, max_length=len(ENDINGS) + 5)


class JobRequest(Strict):
    """One edit. `params` holds the method's own parameters as `/v1/methods/{id}` describes them.

    `adherence` sets those of them that say how closely the edit keeps to the source, where the method has such a
    ladder; what `params` holds goes before it.
    """

    method: MethodId
    model: ModelRef | None = None
    input: EditInput
    prompt: PromptSet = PromptSet()
    adherence: Adherence | None = None
    params: Params = Field(default_factory=dict)
    output: OutputOptions = OutputOptions()
    cache: CacheOptions = CacheOptions()
    priority: Priority = "standard"
    deadline: Deadline = Deadline()
    webhook: WebhookRef | None = None
    labels: Labels = Field(default_factory=dict)
    metadata: Metadata = Field(default_factory=dict)

    def engine_params(self) -> dict[str, Any]:
        """Return the method's parameters: `params` with prompts and trim under the names that methods use.

        A prompt that was left empty is left out, so that a method without that parameter is not refused and a method
        that needs it says so. `size` as `"512x320"` becomes `width` and `height`.
        """
        merged: dict[str, Any] = dict(self.params)
        texts = {"prompt": self.prompt.target, "source_prompt": self.prompt.source}
        texts["negative_prompt"] = self.prompt.negative
        merged.update({name: text for name, text in texts.items() if text})
        if self.input.trim is not None:
            merged["start_seconds"] = self.input.trim.start
            merged.update({} if self.input.trim.end is None else {"end_seconds": self.input.trim.end})
        size = merged.pop("size", None)
        if isinstance(size, str) and size.count("x") == 1 and size.replace("x", "").isdigit():
            merged["width"], merged["height"] = (int(side) for side in size.split("x"))
        elif size is not None:
            merged["size"] = size
        return merged

    def assets(self) -> dict[str, str]:
        """Return input name to asset id: the clip under `video`, the files of a list under `name/0`, `name/1` …"""
        return {name: ref.asset for name, ref in self.files().items() if ref.asset is not None}

    def urls(self) -> dict[str, str]:
        """Return input name to address of the files that are to be fetched, by the same names."""
        return {name: ref.url for name, ref in self.files().items() if ref.url is not None}

    def uploads(self) -> dict[str, str]:
        """Return input name to upload id of the files that are not assets yet, by the same names."""
        return {name: ref.upload for name, ref in self.files().items() if ref.upload is not None}

    def with_assets(self, made: Mapping[str, str]) -> Self:
        """The request with the assets that its uploads became, by upload id."""

        def ref(given: AssetRef) -> AssetRef:
            return given if given.upload is None else AssetRef(asset=made[given.upload])

        files = {
            name: ref(given) if isinstance(given, AssetRef) else tuple(map(ref, given))
            for name, given in self.input.files.items()
        }
        given = self.input.model_copy(update={"video": ref(self.input.video), "files": files})
        return self.model_copy(update={"input": given})

    def files(self) -> dict[str, AssetRef]:
        """Return every input by name."""
        found = {"video": self.input.video}
        for name, given in self.input.files.items():
            if isinstance(given, AssetRef):
                found[name] = given
            else:
                found |= {f"{name}/{number}": ref for number, ref in enumerate(given)}
        return found
