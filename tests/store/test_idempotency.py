"""The same Idempotency-Key leads to one task, whoever asks and how many at once."""

import threading
from dataclasses import replace

import pytest

from genserve.config import Queue
from genserve.domain.task import Task
from genserve.errors import IdempotencyMismatch, QueueFull
from genserve.store import tasks
from genserve.store.database import Database
from tests.store.building import NOW, QUEUE, get, insert, new_task, read, write

CLAIM = tasks.IdempotencyClaim(key_digest="d" * 64, value="order-1", fingerprint="f" * 64)


def test_the_same_request_again_is_the_same_task(database: Database) -> None:
    new = new_task()
    first = write(database, tasks.insert, new, now=NOW, queue=QUEUE, claim=CLAIM)
    again = write(database, tasks.insert, new_task(), now=NOW + 5, queue=QUEUE, claim=CLAIM)
    assert first == tasks.Inserted(new.id, replayed=False, rank=first.rank)
    assert again == replace(first, replayed=True)
    assert len(all_tasks(database)) == 1


def test_another_request_with_the_same_key_is_refused(database: Database) -> None:
    insert(database, claim=CLAIM)
    with pytest.raises(IdempotencyMismatch):
        insert(database, claim=replace(CLAIM, fingerprint="0" * 64))
    assert len(all_tasks(database)) == 1


def test_keys_of_different_callers_have_nothing_to_do_with_each_other(database: Database) -> None:
    one = insert(database, claim=CLAIM)
    two = insert(database, claim=replace(CLAIM, key_digest="e" * 64))
    three = insert(database, claim=replace(CLAIM, value="order-2"))
    assert len({one, two, three}) == 3


def test_a_key_is_forgotten_after_its_time(database: Database) -> None:
    first = insert(database, claim=CLAIM)
    just_before = insert(database, claim=CLAIM, now=NOW + QUEUE.idempotency_ttl_s)
    assert just_before == first
    after = insert(database, claim=CLAIM, now=NOW + QUEUE.idempotency_ttl_s + 1)
    assert after != first
    assert insert(database, claim=CLAIM, now=NOW + QUEUE.idempotency_ttl_s + 2) == after


def test_a_refused_request_does_not_use_its_key_up(database: Database) -> None:
    insert(database, queue=Queue(max_tasks=1))
    with pytest.raises(QueueFull):
        insert(database, queue=Queue(max_tasks=1), claim=CLAIM)
    new = new_task()
    assert insert(database, new, claim=CLAIM) == new.id


def test_a_key_goes_with_its_task(database: Database) -> None:
    first = insert(database, claim=CLAIM)
    write(database, tasks.cancel, first, now=NOW)
    write(database, tasks.purge, now=NOW + 10, max_age_s=5.0, max_bytes=0)
    assert insert(database, claim=CLAIM, now=NOW + 10) != first


def test_many_at_once_make_one_task(database_url: str) -> None:
    """Two servers, four threads: one task, and everybody is told the same id."""
    servers = [Database.open(database_url) for _ in range(2)]
    answers: list[tasks.Inserted] = []
    start = threading.Barrier(4, timeout=30)

    def ask(server: Database) -> None:
        for number in range(10):
            claim = replace(CLAIM, value=f"order-{number}")
            start.wait()
            answers.append(
                write(server, tasks.insert, new_task(), now=NOW, queue=QUEUE, claim=claim)
            )

    threads = [threading.Thread(target=ask, args=(servers[n % 2],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 40
    assert len({answer.task_id for answer in answers}) == 10
    assert sum(not answer.replayed for answer in answers) == 10
    assert {task.id for task in all_tasks(servers[0])} == {answer.task_id for answer in answers}
    assert get(servers[1], answers[0].task_id).rank == answers[0].rank
    for server in servers:
        server.close()


def test_limits_are_exact_for_two_servers(database_url: str) -> None:
    """Eight threads of two servers want in at once: exactly as many as there is room for."""
    servers = [Database.open(database_url) for _ in range(2)]
    refused: list[Exception] = []

    def ask(server: Database, owner: str) -> None:
        for _ in range(10):
            try:
                insert(server, new_task(owner=owner), queue=Queue(max_tasks=23))
            except QueueFull as error:
                refused.append(error)

    threads = [threading.Thread(target=ask, args=(servers[n % 2], f"o{n}")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(refused) == 80 - 23
    assert len(all_tasks(servers[0])) == 23
    for server in servers:
        server.close()


def all_tasks(database: Database) -> list[Task]:
    return read(database, tasks.list_tasks, owner=None, state=None, limit=1000, before=None)
