"""Where things lie in the store. Every key of the service is made here and nowhere else."""

import re

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]{0,63}")


def tenant_part(tenant: str) -> str:
    """Return the tenant's name as part of a key. Raises ValueError for a name that is not plain."""
    if _TENANT.fullmatch(tenant) is None:
        raise ValueError(f"not a tenant name: {tenant!r}")
    return tenant


def job_folder(tenant: str, job_id: str) -> str:
    """Folder of what is written about a job."""
    return f"jobs/{tenant_part(tenant)}/{job_id}/"


def manifest(tenant: str, job_id: str) -> str:
    """The request as accepted: enough to run the job although Redis forgot it."""
    return job_folder(tenant, job_id) + "manifest.json"


def ending(tenant: str, job_id: str) -> str:
    """The record of an ended job."""
    return job_folder(tenant, job_id) + "end.json"


def heard(folder: str, endpoint_id: str) -> str:
    """In the folder of a job or a batch: its end was told to this webhook endpoint, or given up."""
    return f"{folder}heard/{endpoint_id}"


def batch_folder(tenant: str, batch_id: str) -> str:
    """Folder of what is written about a batch as a whole."""
    return f"batches/{tenant_part(tenant)}/{batch_id}/"


def journal(tenant: str, job_id: str) -> str:
    """The log of an ended job."""
    return job_folder(tenant, job_id) + "log.json"


def receipt(tenant: str, job_id: str, fence: int) -> str:
    """What the outputs of an attempt were made from."""
    return attempt_folder(tenant, job_id, fence) + "receipt.json"


def outputs_folder(tenant: str, job_id: str) -> str:
    """Folder of a job's outputs, of all attempts."""
    return f"out/{tenant_part(tenant)}/{job_id}/"


def attempt_folder(tenant: str, job_id: str, fence: int) -> str:
    """Folder of the outputs of one attempt; only the committed one is ever linked."""
    return f"{outputs_folder(tenant, job_id)}attempt-{fence}/"


def asset_meta(tenant: str, asset_id: str) -> str:
    """What is known of an asset."""
    return f"assets/{tenant_part(tenant)}/meta/{asset_id}.json"


def asset_by_digest(tenant: str, sha256: str) -> str:
    """The asset that a tenant has with this content."""
    return f"assets/{tenant_part(tenant)}/digest/{sha256}.json"


def asset_blob(tenant: str, sha256: str) -> str:
    """An asset's bytes."""
    return f"assets/{tenant_part(tenant)}/blob/{sha256[:2]}/{sha256}"


def registered(kind: str, group: str, name: str) -> str:
    """A small thing of the registry: an API key, a webhook endpoint."""
    return f"{kind}/{tenant_part(group)}/{name}.json"


PARTIALS = "partial/v1/"
"""Folder of everything that is kept of unfinished stages."""


def partial(key: str) -> str:
    """Folder of what is kept of a stage that is not finished."""
    return f"{PARTIALS}{key[:2]}/{key}/"


def upload_folder(tenant: str, upload_id: str) -> str:
    """Folder of a file on its way in."""
    return f"uploads/{tenant_part(tenant)}/{upload_id}/"


def upload_record(tenant: str, upload_id: str) -> str:
    """What was announced."""
    return upload_folder(tenant, upload_id) + "upload.json"


def upload_file(tenant: str, upload_id: str) -> str:
    """Where the file itself is sent."""
    return upload_folder(tenant, upload_id) + "file"


def artifact(kind: str, key: str) -> str:
    """A stage's result; the sidecar lies beside it with `.json`."""
    return f"cas/v1/{kind}/{key[:2]}/{key}.safetensors"


def sidecar(place: str) -> str:
    """Beside an artifact, what is known of it; an artifact without one does not exist yet, or any more."""
    return place.removesuffix(".safetensors") + ".json"
