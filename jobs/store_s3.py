"""The object store in an S3 bucket, through boto3. Works with AWS and with compatible stores."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from jobs.settings import Settings
from jobs.store import CHUNK_BYTES, ObjectInfo, ObjectMissing, StoreUnavailable, check_key, check_prefix
from jobs.store_errors import ABSENT, BEYOND, RACING, TAKEN, Told, tell_nobody, watch

MOST_SINGLE_PUT = 5 * 1000**3  # S3's limit for one PutObject


class S3Store:
    """Objects under `prefix/` of a bucket. The client is thread-safe; call it from threads."""

    def __init__(self, bucket: str, prefix: str, settings: Settings, told: Told = tell_nobody) -> None:
        """Use this bucket, which must exist, below this prefix; nothing is sent yet. Failures are `told`."""
        self._bucket = bucket
        self._prefix = f"{check_key(prefix)}/" if prefix else ""
        self._told = told
        self._client = watch(_client(settings, settings.s3_endpoint_url), told)
        public = settings.s3_public_endpoint_url
        self._public = _client(settings, public) if public else self._client

    def put_bytes(
        self, key: str, data: bytes, *, if_none_match: bool = False, media_type: str = "application/octet-stream"
    ) -> bool:
        """See Store."""
        return self._put(key, data, if_none_match, media_type)

    def put_file(
        self, key: str, path: Path, *, if_none_match: bool = False, media_type: str = "application/octet-stream"
    ) -> bool:
        """See Store. A conditional write of more than 5 GB is refused with StoreUnavailable."""
        if if_none_match:
            if path.stat().st_size > MOST_SINGLE_PUT:
                raise StoreUnavailable("larger than one conditional write may be")
            with path.open("rb") as body:
                return self._put(key, body, if_none_match, media_type)
        with _translated(key):
            self._client.upload_file(str(path), self._bucket, self._full(key), ExtraArgs={"ContentType": media_type})
        return True

    def get_bytes(self, key: str) -> bytes:
        """See Store."""
        return b"".join(self.read(key))

    def get_file(self, key: str, path: Path) -> None:
        """See Store."""
        part = path.with_name(path.name + ".part")
        with _translated(key):
            self._client.download_file(self._bucket, self._full(key), str(part))
        part.replace(path)

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """See Store."""
        if end is not None and end <= start:
            return iter(())
        wanted = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        with _translated(key):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._full(key), **wanted)
            except ClientError as error:
                if _code(error) in BEYOND:
                    return iter(())
                raise
        return _chunks(key, answer["Body"], self._told)

    def head(self, key: str) -> ObjectInfo | None:
        """See Store."""
        try:
            with _translated(key):
                answer = self._client.head_object(Bucket=self._bucket, Key=self._full(key))
        except ObjectMissing:
            return None
        return ObjectInfo(key, answer["ContentLength"], answer["LastModified"], answer["ETag"].strip('"'))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See Store."""
        whole = self._prefix + check_prefix(prefix)
        with _translated(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=whole):
                for row in page.get("Contents", ()):
                    key = row["Key"][len(self._prefix) :]
                    yield ObjectInfo(key, row["Size"], row["LastModified"], row["ETag"].strip('"'))

    def delete(self, key: str) -> None:
        """See Store."""
        with _translated(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._full(key))

    def delete_prefix(self, prefix: str) -> int:
        """See Store."""
        keys = [info.key for info in self.list(prefix)]
        for key in keys:
            self.delete(key)
        return len(keys)

    def presign(self, key: str, *, expires_seconds: int, filename: str, media_type: str) -> str | None:
        """See Store. The URL carries the public endpoint's host."""
        wanted = {
            "Bucket": self._bucket,
            "Key": self._full(key),
            "ResponseContentType": media_type,
            "ResponseContentDisposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
        }
        return str(self._public.generate_presigned_url("get_object", Params=wanted, ExpiresIn=expires_seconds))

    def presign_post(
        self, key: str, *, size_bytes: int, media_type: str, expires_seconds: int
    ) -> tuple[str, dict[str, str]]:
        """Return address and form fields by which exactly one object of this size and type may be sent."""
        exact: list[Any] = [{"Content-Type": media_type}, ["content-length-range", size_bytes, size_bytes]]
        made = self._public.generate_presigned_post(
            self._bucket, self._full(key), {"Content-Type": media_type}, exact, expires_seconds
        )
        return str(made["url"]), {str(name): str(value) for name, value in made["fields"].items()}

    def begin_parts(self, key: str, *, media_type: str) -> str:
        """Begin an object in parts; returns the store's name of it."""
        with _translated(key):
            made = self._client.create_multipart_upload(
                Bucket=self._bucket, Key=self._full(key), ContentType=media_type
            )
        return str(made["UploadId"])

    def presign_part(self, key: str, multipart: str, number: int, expires_seconds: int) -> str:
        """Return the address of one part."""
        wanted = {"Bucket": self._bucket, "Key": self._full(key), "UploadId": multipart, "PartNumber": number}
        return str(self._public.generate_presigned_url("upload_part", Params=wanted, ExpiresIn=expires_seconds))

    def end_parts(self, key: str, multipart: str) -> bool:
        """Make the parts that came one object; False when there are none, or they were made one before."""
        named = {"Bucket": self._bucket, "Key": self._full(key), "UploadId": multipart}
        try:
            with _translated(key):
                pages = self._client.get_paginator("list_parts").paginate(**named)
                parts = [
                    {"PartNumber": p["PartNumber"], "ETag": p["ETag"]} for page in pages for p in page.get("Parts", ())
                ]
                if parts:
                    self._client.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
        except ObjectMissing:
            return False
        return bool(parts)

    def drop_parts(self, prefix: str, old: Callable[[str], bool]) -> int:
        """Give up unfinished objects in parts below a prefix whose key is old; returns how many."""
        with _translated(prefix):
            pages = self._client.get_paginator("list_multipart_uploads")
            found = pages.paginate(Bucket=self._bucket, Prefix=self._prefix + check_prefix(prefix))
            begun = [row for page in found for row in page.get("Uploads", ())]
            dropped = [row for row in begun if old(row["Key"][len(self._prefix) :])]
            for row in dropped:
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=row["Key"], UploadId=row["UploadId"])
        return len(dropped)

    def _full(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _put(self, key: str, body: Any, if_none_match: bool, media_type: str) -> bool:
        condition = {"IfNoneMatch": "*"} if if_none_match else {}
        for last in (False, False, True):
            try:
                with _translated(key):
                    self._client.put_object(
                        Bucket=self._bucket, Key=self._full(key), Body=body, ContentType=media_type, **condition
                    )
            except _Conflict as conflict:
                if conflict.taken or last:
                    return False
                if hasattr(body, "seek"):
                    body.seek(0)
            else:
                return True
        return False


class _Conflict(Exception):
    """A conditional write met another writer; `taken` when that one has finished."""

    def __init__(self, *, taken: bool) -> None:
        self.taken = taken


def _client(settings: Settings, endpoint: str | None) -> Any:
    secret = settings.s3_secret_access_key
    config = Config(
        signature_version="s3v4",
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "max_attempts": 5},
        connect_timeout=3,
        read_timeout=30,
        max_pool_connections=32,
        s3={"addressing_style": settings.s3_addressing_style},
    )
    return boto3.client(
        "s3",
        region_name=settings.s3_region,
        endpoint_url=endpoint,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=config,
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextlib.contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = _code(error)
        if code in TAKEN | RACING:
            raise _Conflict(taken=code in TAKEN) from error
        if code in ABSENT:
            raise ObjectMissing(key) from error
        raise StoreUnavailable(code) from error
    except (BotoCoreError, Boto3Error) as error:
        raise StoreUnavailable(type(error).__name__) from error


def _chunks(key: str, body: Any, told: Told) -> Iterator[bytes]:
    try:
        with _translated(key), contextlib.closing(body):
            yield from body.iter_chunks(CHUNK_BYTES)
    except StoreUnavailable as broken:
        told("GetObject", str(broken))
        raise
