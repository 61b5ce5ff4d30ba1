"""What watchers are told."""

import asyncio

import pytest

from genserve.core.hub import Hub
from genserve.domain.events import Cancelled, Finished, Progress, Started
from genserve.errors import ShuttingDown


async def test_a_watcher_gets_everything_in_order_and_then_the_end():
    hub = Hub()
    with hub.subscribe("t") as news:
        hub.publish("t", 1, Started(worker="w", attempt=1))
        hub.publish("t", 1, Progress(step=1, total=2))
        hub.publish("t", 1, Finished())
        told = [await news.next() for _ in range(3)]
    assert [stamped.id for stamped in told] == ["1.1", "1.2", "1.3"]
    assert isinstance(told[-1].event, Finished)


async def test_unread_progress_is_replaced_by_newer():
    hub = Hub()
    with hub.subscribe("t") as news:
        hub.publish("t", 1, Started(worker="w", attempt=1))
        for step in range(1, 1001):
            hub.publish("t", 1, Progress(step=step, total=1000))
        assert isinstance((await news.next()).event, Started)
        assert (await news.next()).event == Progress(step=1000, total=1000)


async def test_a_slow_watcher_still_gets_the_newest_preview():
    """Most progress has none, and would replace the one that has."""
    hub = Hub()
    with hub.subscribe("t") as news:
        for step in range(1, 9):
            preview = f"picture {step}" if step in (3, 6) else None
            hub.publish("t", 1, Progress(step=step, total=9, preview=preview))
        assert (await news.next()).event == Progress(step=8, total=9, preview="picture 6")
        hub.publish("t", 1, Progress(step=9, total=9))
        assert (await news.next()).event == Progress(step=9, total=9), "and none twice"


async def test_the_last_event_is_kept_until_the_end_and_no_longer():
    hub = Hub()
    hub.publish("t", 1, Progress(step=1, total=2))
    last = hub.last("t")
    assert last is not None
    assert last.event == Progress(step=1, total=2)
    hub.publish("t", 1, Cancelled())
    assert hub.last("t") is None


async def test_a_task_that_went_back_has_no_last_event_but_keeps_its_watchers():
    hub = Hub()
    with hub.subscribe("t") as news:
        hub.publish("t", 1, Progress(step=1, total=2))
        hub.forget("t")
        assert hub.last("t") is None
        await news.next()
        hub.publish("t", 2, Finished())
        assert isinstance(await news.until_final(), Finished)


async def test_whoever_waits_at_a_shutdown_is_told_so():
    hub = Hub()
    with hub.subscribe("t") as news:
        waiting = asyncio.create_task(news.until_final())
        await asyncio.sleep(0)
        hub.close()
        with pytest.raises(ShuttingDown):
            await waiting
    with hub.subscribe("u") as late, pytest.raises(ShuttingDown):
        await late.next()
