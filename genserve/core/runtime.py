"""Puts the house together: opens everything in order and closes it in reverse."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from uuid import uuid4

from genserve.config import Config
from genserve.core.catalog import Catalog
from genserve.core.dispatcher import Dispatcher
from genserve.core.housekeeping import Housekeeping
from genserve.core.hub import Hub
from genserve.core.keyring import KeyRing
from genserve.core.limits import Limits
from genserve.core.live_catalog import LiveCatalog
from genserve.core.metrics import Metrics
from genserve.core.residency import preloads
from genserve.core.service import Service
from genserve.core.stocktaking import Changes
from genserve.domain.pool import WorkerPool
from genserve.errors import UnsafeBinding
from genserve.store import leases, tasks
from genserve.store.blobs import BlobStore
from genserve.store.database import Clock, Database
from genserve.store.datafolder import DataFolder
from genserve.store.only_server import OnlyServer
from genserve.workers.decoder import ImageDecoder
from genserve.workers.pool import LocalPool

LEASE_TTL_S = 30.0


class Runtime:
    """Everything that runs, as one value for those who answer requests."""

    config: Config
    clock: Clock
    db: Database
    blobs: BlobStore
    catalogs: LiveCatalog
    keys: KeyRing
    limits: Limits
    metrics: Metrics
    hub: Hub
    decoder: ImageDecoder
    pool: WorkerPool
    dispatcher: Dispatcher
    service: Service

    def __init__(self, config: Config, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self._closing = AsyncExitStack()
        self._drain_s = config.server.drain_s
        self._draining: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        config: Config,
        *,
        reread: Callable[[], Config],
        exposed: bool = False,
        import_keys_from: Sequence[Path] = (),
        clock: Clock = time.time,
    ) -> "Runtime":
        """Open the data folder, the database and the keys, start the workers, begin to work.

        Returns as soon as tasks can be accepted; workers come up beside. `reread` reads the
        configuration again. `exposed`: other machines can reach the server, so a real API key
        must exist. `import_keys_from`: folders whose old key files are taken over. Raises
        `StartupError` and leaves nothing open.
        """
        runtime = cls(config, clock)
        try:
            await runtime._open_store(reread, import_keys_from)
            if exposed and not runtime.keys.all():
                raise UnsafeBinding(host=config.server.host)
            await runtime._open_work()
        except BaseException:
            await runtime.stop(drain_s=0)
            raise
        return runtime

    async def _open_store(
        self, reread: Callable[[], Config], import_keys_from: Sequence[Path]
    ) -> None:
        config, closing = self.config, self._closing
        folder = DataFolder.open(config.data_dir)
        closing.callback(folder.close)
        self.catalogs = LiveCatalog(config)
        closing.callback(OnlyServer.open(config.database_url).close)
        self.db = Database.open(config.database_url)
        closing.callback(self.db.close)
        self.blobs = BlobStore(config.blobs_dir)
        self.keys = await KeyRing.open(
            self.db, config, self.clock, reread, import_from=import_keys_from
        )

    async def _open_work(self) -> None:
        config, closing = self.config, self._closing
        self.limits = Limits(config.api)
        self.metrics = Metrics()
        self.hub = Hub()
        self.decoder = ImageDecoder(max_megapixels=config.api.max_megapixels)
        await self.decoder.start()
        closing.push_async_callback(self.decoder.stop)
        self.pool = LocalPool(
            config.pool, run_folder=config.run_dir, families=self.catalog.families()
        )
        self.dispatcher = Dispatcher(
            db=self.db,
            pool=self.pool,
            catalogs=self.catalogs,
            hub=self.hub,
            metrics=self.metrics,
            blobs=self.blobs,
            queue=config.queue,
            preload=preloads(self.catalog, config.pool.preload),
            epoch=await self._lead(),
            previews=config.api.previews,
            clock=self.clock,
        )
        self._serve()
        await self.pool.start()
        closing.push_async_callback(self.drain)
        await self.dispatcher.start()
        await self._keep_house()

    async def _lead(self) -> int:
        """This start's epoch: grows with every start, so that older results are told apart."""
        take = partial(
            leases.lead,
            name=leases.DISPATCHER,
            holder=str(uuid4()),
            ttl_s=LEASE_TTL_S,
            now=self.clock(),
            alone=True,
        )
        return await asyncio.wrap_future(self.db.write(take)) or 0

    def _serve(self) -> None:
        self.service = Service(
            db=self.db,
            blobs=self.blobs,
            catalogs=self.catalogs,
            dispatcher=self.dispatcher,
            pool=self.pool,
            hub=self.hub,
            metrics=self.metrics,
            decoder=self.decoder,
            queue=self.config.queue,
            clock=self.clock,
        )
        self.metrics.watch_queue(lambda: self.db.read(tasks.counts).result())
        self.metrics.watch_workers(self.pool.workers)

    async def _keep_house(self) -> None:
        housekeeping = Housekeeping(
            db=self.db,
            blobs=self.blobs,
            hub=self.hub,
            keys=self.keys,
            metrics=self.metrics,
            queue=self.config.queue,
            retention=self.config.retention,
            clock=self.clock,
        )
        housekeeping.start()
        self._closing.push_async_callback(housekeeping.stop)

    @property
    def catalog(self) -> Catalog:
        """The models and LoRAs as they were last looked at."""
        return self.catalogs.now

    async def rescan(self) -> Changes:
        """Look at the folders of weights again; what runs and what waits goes on.

        A model that cannot be used any more, or whose stand-in takes over, is unloaded when its
        worker is free. Raises `WeightsUnreadable`; then everything is as it was.
        """
        was = {entry.spec.id: entry for entry in self.catalog.models()}
        changes = await self.catalogs.rescan()
        gone, renewed = [], []
        for entry in self.catalog.models():
            model_id, before = entry.spec.id, was[entry.spec.id]
            if entry.served_by != model_id == before.served_by:
                gone.append(model_id)
            elif entry.spec.stamp != before.spec.stamp:
                renewed.append(model_id)
        preload = preloads(self.catalog, self.config.pool.preload)
        await self.dispatcher.residency.follow(preload, gone, renewed)
        return changes

    async def drain(self) -> None:
        """Refuse new tasks, let running ones end, tell all who wait; what is stored stays readable.

        `stop` does this too. Done once, however often it is asked for.
        """
        if self._draining is None:
            self._draining = asyncio.create_task(self._stop_work(), name="runtime.drain")
        await asyncio.shield(self._draining)

    async def _stop_work(self) -> None:
        self.service.refuse_new()
        await self.dispatcher.stop(self._drain_s)
        self.hub.close()

    async def stop(self, *, drain_s: float | None = None) -> None:
        """Drain and close everything. `drain_s`: how long running tasks may go on."""
        if drain_s is not None:
            self._drain_s = drain_s
        await self._closing.aclose()
