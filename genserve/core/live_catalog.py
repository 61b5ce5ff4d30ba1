"""The catalogue that is in force, and how it becomes another one while the server runs.

Each catalogue is whole and never changes; a newer one takes its place at once. Whoever needs
several answers that fit together takes `now` once. config.yaml is not read again: which models
there are was decided at the start, and a look finds out which of them can be served.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable

from genserve.config import Config
from genserve.core.catalog import Catalog
from genserve.core.stocktaking import Changes, Item, compare
from genserve.domain.request import GenerationRequest
from genserve.errors import UnknownModel, WeightsUnreadable
from genserve.store.loras import changed_since

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""Not oftener does a request for a LoRA that nobody knows have the folder looked at."""


RETRY_S = 10


class LiveCatalog:
    """Holds the catalogue. Belongs to the event loop; `now` may be read by any thread."""

    def __init__(self, config: Config, *, look_every_s: float = LOOK_EVERY_S) -> None:
        """Take stock. Raises `ConfigError`, `OSError`."""
        self._config = config
        self._look_every_s = look_every_s
        self._looked_at_s = float("-inf")
        self._looking = asyncio.Lock()
        self.now = Catalog(config)
        for item in compare(None, self.now).broken:
            _tell("cannot be used", item)

    async def rescan(self) -> Changes:
        """Look at everything again. Raises `WeightsUnreadable`; then nothing has changed."""
        async with self._looking:
            return await self._replace(lambda: Catalog(self._config, self.now.loras()))

    async def problem_of(self, model_id: str) -> str | None:
        """What is wrong with a model's files by now, if that can be seen; None otherwise.

        Looks, and changes nothing.
        """
        try:
            looked = await asyncio.to_thread(Catalog, self._config, self.now.loras())
            return looked.entry(model_id).problem
        except (OSError, UnknownModel):
            return None

    async def look_for_loras(self, request: GenerationRequest) -> None:
        """Look at the folder of LoRAs again, if it may have more to say about the request's.

        That is so when a file was changed, or one is named that nobody knows; the latter counts
        only now and then. A folder that cannot be read leaves everything as it was.
        """
        if not request.loras or not await asyncio.to_thread(self._is_worth_a_look, request):
            return
        async with self._looking:
            if not await asyncio.to_thread(self._is_worth_a_look, request):
                return  # somebody else has looked meanwhile
            try:
                await self._replace(lambda: self.now.with_new_loras(self._config))
            except WeightsUnreadable as error:
                log.warning("cannot look for LoRAs: %s", error)
            self._looked_at_s = time.monotonic()

    def _is_worth_a_look(self, request: GenerationRequest) -> bool:
        known = {lora.name: lora for lora in self.now.loras()}
        named = [known.get(lora.name) for lora in request.loras]
        folder = self._config.loras_dir
        if any(lora is not None and changed_since(folder, lora) for lora in named):
            return True
        return None in named and time.monotonic() - self._looked_at_s >= self._look_every_s

    async def _replace(self, make: Callable[[], Catalog]) -> Changes:
        try:
            newer = await asyncio.to_thread(make)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise WeightsUnreadable(
                path=str(error.filename), reason=reason, retry_after_s=RETRY_S
            ) from None
        changes = compare(self.now, newer)
        self.now = newer
        for verb, items in (
            ("was added", changes.added),
            ("was removed", changes.removed),
            ("has changed", changes.changed),
        ):
            for item in items:
                _tell(verb, item)
        return changes


def _tell(verb: str, item: Item) -> None:
    if item.problem is None:
        log.info("%s %s %s", item.kind, item.name, verb)
    else:
        log.warning("%s %s %s: %s", item.kind, item.name, verb, item.problem)
