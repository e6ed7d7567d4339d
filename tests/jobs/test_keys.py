"""API keys: found by prefix, compared by digest, ended at once, not lost with Redis."""

import pytest

from jobs.keys import Keys, UnknownKey, digest
from jobs.records import Records
from jobs.store import Store


@pytest.fixture
def keys(records: Records, store: Store) -> Keys:
    return Keys(records, store)


def test_a_key_is_found_and_kept_as_a_digest_only(keys: Keys, records: Records, store: Store) -> None:
    made, key = keys.create("acme", scopes=("read",), name="ci")
    assert keys.find(key) == made and (made.tenant, made.scopes, made.sha256) == ("acme", ("read",), digest(key))
    kept = records.redis.hgetall("rf:keys:all")[made.id] + store.get_bytes(f"keys/all/{made.id}.json").decode()
    assert made.sha256 in kept and key[16:] not in kept
    for wrong in (key[:-1] + ("a" if key[-1] != "a" else "b"), key[:-1], "rf_live_", "", key.upper(), key + "a"):
        assert keys.find(wrong) is None


def test_a_revoked_key_opens_nothing_and_an_expired_one_neither(keys: Keys) -> None:
    revoked, key = keys.create("acme")
    keys.revoke(revoked.id)
    assert keys.find(key) is None
    _, ended = keys.create("acme", life_seconds=0)
    assert keys.find(ended) is None
    with pytest.raises(UnknownKey):
        keys.revoke("aaaaaaaa")


def test_two_keys_live_while_one_is_rotated(keys: Keys) -> None:
    old, old_key = keys.create("acme", scopes=("read", "webhooks"), name="ci")
    new, new_key = keys.rotate(old.id, overlap_seconds=60)
    assert keys.find(old_key) is not None and keys.find(new_key) == new
    assert (new.tenant, new.scopes, new.name) == (old.tenant, old.scopes, old.name)
    keys.rotate(new.id, overlap_seconds=0)
    assert keys.find(new_key) is None
    assert [key.id for key in keys.list("acme")][:2] == [old.id, new.id] and keys.list("other") == []


def test_keys_outlive_redis_and_stay_revoked(keys: Keys, records: Records) -> None:
    made, key = keys.create("acme")
    gone, ended = keys.create("acme")
    keys.revoke(gone.id)
    records.redis.flushall()
    assert keys.find(key) == made and keys.find(ended) is None


def test_unknown_keys_do_not_reach_the_store(keys: Keys, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _, key = keys.create("acme")
    assert keys.find("rf_live_" + "a" * 40) is None
    monkeypatch.setattr(type(store), "list", None)
    monkeypatch.setattr(type(store), "get_bytes", None)
    assert keys.find("rf_live_" + "b" * 40) is None and keys.find(key) is not None


def test_a_tenant_has_a_plain_name(keys: Keys) -> None:
    for name in ("", "../x", "a/b", "a" * 65):
        with pytest.raises(ValueError, match="not a tenant"):
            keys.create(name)
