"""What a worker does when its memory runs out, from what costs least to what costs most."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from genserve.domain.model import Offload
from genserve.pipelines import faults
from genserve.pipelines.base import Pipeline
from genserve.pipelines.cache import EVICTED, OFFLOADED, Residents
from genserve.pipelines.ladder import Rung

TILING = "vae_tiling"
"""The code of the rung that helps to decode, and with nothing else."""


def rungs(
    residents: Residents, pipeline: Pipeline, model_id: str, *, in_tiles: bool = False
) -> list[Rung]:
    """The rungs for that loaded model. One that is of no use for it is passed over.

    `in_tiles`: it decodes in tiles anyway.
    """

    def evict() -> AbstractContextManager[None] | None:
        return nullcontext() if residents.evict_others(model_id) else None

    def offload(how: Offload) -> Callable[[], AbstractContextManager[None] | None]:
        def take() -> AbstractContextManager[None] | None:
            held = pipeline.offloaded(how)
            return None if held is None else _brought_back(held, residents, model_id)

        return take

    tile = Rung(TILING, "The picture was decoded in tiles.", pipeline.low_memory)
    return [
        *([] if in_tiles else [tile]),
        Rung(EVICTED.code, EVICTED.detail, evict),
        *(Rung(said.code, said.detail, offload(how)) for how, said in OFFLOADED.items()),
    ]


@contextmanager
def _brought_back(
    held: AbstractContextManager[None], residents: Residents, model_id: str
) -> Iterator[None]:
    """Where there is no room any more to bring the weights back, the model is unloaded."""
    stack = ExitStack()
    stack.enter_context(held)
    try:
        yield
    finally:
        try:
            stack.close()
        except Exception as error:
            if faults.classify(error) is not faults.Fault.OUT_OF_MEMORY:
                raise
            residents.unload(model_id)
