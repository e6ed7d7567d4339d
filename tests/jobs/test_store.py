"""One suite for both stores: a local folder, and S3 against a moto server process."""

import threading
from pathlib import Path

import pytest

from jobs.settings import Settings
from jobs.store import BadKey, ObjectMissing, Store, StoreUnavailable, open_store
from jobs.store_local import LocalStore


def test_bytes_come_back_and_are_replaced(store: Store) -> None:
    assert store.put_bytes("a/b.json", b"one")
    assert store.put_bytes("a/b.json", b"two")
    assert store.get_bytes("a/b.json") == b"two"
    info = store.head("a/b.json")
    assert info is not None and (info.key, info.size_bytes) == ("a/b.json", 3)


def test_files_come_back(store: Store, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(range(256)) * 20_000)
    store.put_file("x/large.bin", source, media_type="video/mp4")
    store.get_file("x/large.bin", target)
    assert target.read_bytes() == source.read_bytes()
    assert source.exists()


def test_only_the_first_conditional_write_counts(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"file")
    assert store.put_bytes("k", b"first", if_none_match=True)
    assert not store.put_bytes("k", b"second", if_none_match=True)
    assert not store.put_file("k", path, if_none_match=True)
    assert store.get_bytes("k") == b"first"
    store.delete("k")
    assert store.put_file("k", path, if_none_match=True)
    assert store.get_bytes("k") == b"file"


def test_of_many_conditional_writers_one_wins(store: Store) -> None:
    won: list[int] = []

    def write(number: int) -> None:
        if store.put_bytes("race", str(number).encode(), if_none_match=True):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get_bytes("race") == str(won[0]).encode()


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, None, b"0123456789"), (3, None, b"3456789"), (3, 6, b"345"), (0, 1, b"0"), (8, 99, b"89"), (5, 5, b"")],
)
def test_ranges(store: Store, start: int, end: int | None, expected: bytes) -> None:
    store.put_bytes("digits", b"0123456789")
    assert b"".join(store.read("digits", start, end)) == expected


def test_a_range_beyond_the_end_is_empty(store: Store) -> None:
    store.put_bytes("digits", b"0123456789")
    assert b"".join(store.read("digits", 10)) == b""


def test_what_is_not_there_is_missing_before_the_first_byte(store: Store, tmp_path: Path) -> None:
    assert store.head("no/such") is None
    for ask in (store.get_bytes, store.read, lambda key: store.get_file(key, tmp_path / "x")):
        with pytest.raises(ObjectMissing):
            ask("no/such")
    assert list(tmp_path.glob("x*")) == []
    store.delete("no/such")


def test_listing_is_ordered_and_bounded_by_the_prefix(store: Store) -> None:
    for key in ("a/2", "a/1", "a/sub/3", "ab/4", "b/5"):
        store.put_bytes(key, b"x")
    assert [info.key for info in store.list("a/")] == ["a/1", "a/2", "a/sub/3"]
    assert [info.key for info in store.list("")] == ["a/1", "a/2", "a/sub/3", "ab/4", "b/5"]
    assert store.delete_prefix("a/") == 3
    assert [info.key for info in store.list("")] == ["ab/4", "b/5"]


BAD = [
    "",
    "/a",
    "a/",
    "a//b",
    "../a",
    "a/../b",
    "a/..",
    ".hidden",
    "a/.b",
    "a\\b",
    "a\0b",
    "a b",
    "é",
    "a/" + "x" * 600,
]


@pytest.mark.parametrize("key", BAD)
def test_no_key_leads_elsewhere(store: Store, key: str, tmp_path: Path) -> None:
    asks = [
        lambda: store.put_bytes(key, b"x"),
        lambda: store.get_bytes(key),
        lambda: store.read(key),
        lambda: store.head(key),
        lambda: store.delete(key),
        lambda: store.presign(key, expires_seconds=1, filename="f", media_type="m"),
    ]
    for ask in asks:
        with pytest.raises(BadKey):
            ask()


@pytest.mark.parametrize("prefix", ["a", "../", "/", "a/../", "//"])
def test_no_prefix_leads_elsewhere(store: Store, prefix: str) -> None:
    with pytest.raises(BadKey):
        list(store.list(prefix))
    with pytest.raises(BadKey):
        store.delete_prefix(prefix)


def test_a_link_inside_the_folder_does_not_lead_out(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "store" / "link").symlink_to(tmp_path)
    with pytest.raises(StoreUnavailable):
        store.get_bytes("link/secret")


def test_only_s3_can_presign(s3_settings: Settings, tmp_path: Path) -> None:
    url = open_store(s3_settings).presign("a/b", expires_seconds=60, filename="ä b.mp4", media_type="video/mp4")
    assert url is not None and "X-Amz-Signature" in url and "some/prefix/a/b" in url
    assert LocalStore(tmp_path).presign("a/b", expires_seconds=60, filename="x", media_type="y") is None


def test_a_store_that_is_away_says_so() -> None:
    away = Settings(
        store="s3://bucket", s3_endpoint_url="http://127.0.0.1:9", s3_access_key_id="x", s3_secret_access_key="y"
    )
    with pytest.raises(StoreUnavailable):
        open_store(away).head("a")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown store"):
        open_store(Settings(store="ftp://x/y"))
