"""Prepare the object store: make the bucket if it is not there, and check that conditional writes are honoured.

Jobs commit exactly once because the store refuses a second object under a key that is taken (`If-None-Match: *`). A
store that accepts both would lose that guarantee silently, so this refuses it loudly. Settings: `REFILM_*`.
"""

import secrets
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from jobs.settings import Settings
from jobs.store import Store, StoreUnavailable, open_store

RIVALS = 8


def bucket_client(settings: Settings) -> object:
    """A boto3 client with the service's endpoint and keys."""
    secret = settings.s3_secret_access_key
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
    )


def make(client: object, name: str, tries: int = 30) -> str:
    """Create the bucket unless it exists; waits for a store that is still starting."""
    for left in reversed(range(tries)):
        try:
            client.head_bucket(Bucket=name)  # type: ignore[attr-defined]
            return "exists"
        except ClientError as error:
            if error.response["Error"]["Code"] in {"404", "NoSuchBucket"}:
                client.create_bucket(Bucket=name)  # type: ignore[attr-defined]
                return "created"
            raise
        except BotoCoreError:
            if not left:
                raise
            time.sleep(1)
    return "absent"


def conditional(store: Store) -> int:
    """How many of several writers at the same moment were told that theirs is the only one; must be 1."""
    key = f"checks/{secrets.token_hex(8)}"
    with ThreadPoolExecutor(RIVALS) as pool:
        won = list(pool.map(lambda n: store.put_bytes(key, bytes([n]), if_none_match=True), range(RIVALS)))
    store.delete(key)
    return sum(won)


def main() -> int:
    """Exit status 0 when the bucket is there and safe to use."""
    settings = Settings()
    parts = urlsplit(settings.store_url)
    if parts.scheme != "s3":
        sys.stderr.write(f"REFILM_STORE is {settings.store_url}, which needs no bucket\n")
        return 0
    state = make(bucket_client(settings), parts.netloc)
    try:
        winners = conditional(open_store(settings))
    except StoreUnavailable as error:
        sys.stderr.write(f"the bucket {parts.netloc} cannot be written: {error}\n")
        return 1
    sys.stderr.write(f"bucket {parts.netloc}: {state}; conditional writes: {winners} of {RIVALS} won\n")
    if winners != 1:
        sys.stderr.write("this store does not honour If-None-Match; two workers could commit the same job\n")
    return 0 if winners == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
