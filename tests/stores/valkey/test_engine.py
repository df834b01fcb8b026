"""The engine that the other tests stand on: it fails and comes back as they ask it to."""

import pytest
from redis.exceptions import TimeoutError  # noqa: A004 - theirs is no TimeoutError of Python's
from valkey_engine import REDIS, StartCluster, StartEngine, ValkeyEngine, missing
from waiting import Call, wait_until


def test_what_was_acknowledged_survives_a_kill(start_valkey: StartEngine) -> None:
    engine = start_valkey()
    before = engine.info("replication")["master_replid"]
    engine.command("SET", "kept", "1")
    engine.kill()
    engine.start()
    assert engine.command("GET", "kept") == "1"
    # What the epoch stands on: no start of a primary has the id of the one before.
    assert engine.info("replication")["master_replid"] != before


def test_a_paused_engine_answers_when_it_goes_on(valkey: ValkeyEngine) -> None:
    valkey.pause()
    try:
        with valkey.client() as client:
            client.connection_pool.connection_kwargs["socket_timeout"] = 0.2
            with pytest.raises(TimeoutError):
                client.execute_command("PING")
        asked = Call(lambda: valkey.command("PING"))
    finally:
        valkey.go_on()
    assert asked.outcome()


def test_a_replica_that_is_promoted_has_another_id(start_valkey: StartEngine) -> None:
    primary = start_valkey(appendonly="no")
    primary.command("SET", "kept", "1")
    replica = primary.replica()
    try:
        before = replica.info("replication")["master_replid"]
        replica.promote()
        assert replica.command("GET", "kept") == "1"
        assert before != replica.info("replication")["master_replid"]
        replica.command("SET", "kept", "2")
    finally:
        replica.close()


def test_a_slot_moves_with_its_keys(start_cluster: StartCluster) -> None:
    cluster = start_cluster()
    key = "{moved}:b"
    slot = int(cluster.engines[0].command("CLUSTER", "KEYSLOT", key))
    owner = cluster.owner(slot)
    owner.command("SET", key, "1")
    target = cluster.move(key)
    assert target is not owner
    assert target.command("GET", key) == "1"
    wait_until(lambda: cluster.owner(slot) is target, "all know whose it is now")


@pytest.mark.skipif(missing(REDIS) is not None, reason=str(missing(REDIS)))
def test_redis_is_another_engine(start_valkey: StartEngine) -> None:
    assert start_valkey(REDIS).info("server")["redis_version"]
