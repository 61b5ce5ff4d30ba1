"""What must not stop the house, and what must: rows of another version, a second server, …"""

import asyncio
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from genserve.config import Store
from genserve.core import housekeeping
from genserve.core.runtime import Runtime
from genserve.domain.request import ImageRole, InputImage
from genserve.domain.task import TaskState
from genserve.errors import DatabaseInUse, UnknownModel, UnsafeBinding
from tests.core.conftest import Start, asks, caller, fake_config

ONE_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cf"
    "c000000301010018dd8db00000000049454e44ae426082"
)


async def test_a_row_that_cannot_be_read_ends_and_the_queue_goes_on(start: Start, tmp_path: Path):
    runtime = await start()
    me = caller(runtime)
    await runtime.service.submit(me, asks("fake:sleep=1"), dialect="test")
    strange = await runtime.service.submit(me, asks(), dialect="test")
    after = await runtime.service.submit(me, asks(), dialect="test")
    with sqlite3.connect(tmp_path / "data" / "genserve.db", timeout=10) as db:
        asked = json.dumps({"model": "fake", "prompt": "p", "of_a_later_version": True})
        db.execute("UPDATE tasks SET asked = ? WHERE id = ?", (asked, strange.task.id))
    db.close()
    assert (await runtime.service.wait(after.task.id)).state is TaskState.COMPLETED
    with sqlite3.connect(tmp_path / "data" / "genserve.db", timeout=10) as db:
        state = db.execute("SELECT state FROM tasks WHERE id = ?", (strange.task.id,)).fetchone()
    db.close()
    assert state == ("failed",)


async def test_a_refused_request_leaves_no_picture_behind(start: Start):
    runtime = await start()
    me = caller(runtime)
    picture = await runtime.service.read_picture(ONE_PIXEL, "input_image")
    image = InputImage(file=picture.file, role=ImageRole.INIT)
    wrong = asks(model="none", mode="img2img", images=(image,))
    with pytest.raises(UnknownModel):
        await runtime.service.submit(me, wrong, dialect="test", pictures=[picture])
    assert not runtime.blobs.path(picture.file.sha256).exists()
    right = asks(mode="img2img", images=(image,))
    submitted = await runtime.service.submit(me, right, dialect="test", pictures=[picture])
    assert runtime.blobs.path(picture.file.sha256).exists()
    assert (await runtime.service.wait(submitted.task.id)).state is TaskState.COMPLETED


async def test_a_second_server_on_one_postgresql_database_is_refused(
    tmp_path: Path, postgres_url: str
):
    def config(name: str) -> Any:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return fake_config(folder, store=Store.model_validate({"url": postgres_url}))

    first = await Runtime.start(config("first"), reread=lambda: config("again"))
    try:
        with pytest.raises(DatabaseInUse):
            await Runtime.start(config("second"), reread=lambda: config("again"))
        task = await first.service.submit(caller(first), asks(), dialect="test")
        assert (await first.service.wait(task.task.id)).state is TaskState.COMPLETED
    finally:
        await first.stop(drain_s=0)
    again = await Runtime.start(config("first"), reread=lambda: config("again"))
    await again.stop(drain_s=0)


async def test_an_exposed_server_needs_a_real_key(tmp_path: Path):
    config = fake_config(tmp_path, keys={})
    with pytest.raises(UnsafeBinding):
        await Runtime.start(config, reread=lambda: config, exposed=True)
    runtime = await Runtime.start(config, reread=lambda: config)
    await runtime.stop(drain_s=0)


async def test_old_key_files_are_taken_over_only_where_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    old = tmp_path / "api_keys.json"
    old.write_text(json.dumps({"an-old-key-of-a-user": {"name": "old", "permissions": ["all"]}}))
    config = fake_config(tmp_path, keys={})
    private = await Runtime.start(config, reread=lambda: config)
    await private.stop(drain_s=0)
    assert old.exists()
    public = await Runtime.start(config, reread=lambda: config, import_keys_from=[tmp_path])
    try:
        assert [key.name for key in public.keys.all()] == ["old"]
    finally:
        await public.stop(drain_s=0)
    assert not old.exists()


async def test_what_retention_deletes_is_gone_from_disk_too(start: Start):
    runtime = await start(retention={"max_gib": 1e-9})
    submitted = await runtime.service.submit(caller(runtime), asks(), dialect="test")
    task = await runtime.service.wait(submitted.task.id)
    assert task.result is not None
    path = runtime.blobs.path(task.result.images[0].sha256)
    assert path.exists()
    chores = housekeeping.Housekeeping(
        db=runtime.db,
        blobs=runtime.blobs,
        hub=runtime.hub,
        keys=runtime.keys,
        metrics=runtime.metrics,
        queue=runtime.config.queue,
        retention=runtime.config.retention,
        clock=runtime.clock,
    )
    await chores.apply_retention()
    assert await asyncio.to_thread(path.exists), "young files wait for the sweep"
    old = path.stat().st_mtime - 2 * 3600

    os.utime(path, (old, old))
    await chores.sweep_orphans()
    assert not path.exists()
