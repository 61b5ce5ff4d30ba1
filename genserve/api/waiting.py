"""Waiting for a task on behalf of a client that may hang up."""

import asyncio

from fastapi import Request
from starlette.requests import ClientDisconnect

from genserve.core.service import Service
from genserve.domain.task import Task


async def until_ended(request: Request, service: Service, task_id: str, *, abandon: bool) -> Task:
    """The task once it has ended. The request's body must have been read.

    When the client hangs up first, `ClientDisconnect` is raised; with `abandon`, the task is
    cancelled, since nobody wants it any more. Raises what `Service.wait` raises.
    """
    ended = asyncio.create_task(service.wait(task_id))
    gone = asyncio.create_task(_hang_up(request))
    try:
        await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            return ended.result()
        if abandon:
            await service.abandon(task_id)
        raise ClientDisconnect
    finally:
        ended.cancel()
        gone.cancel()
        await asyncio.gather(ended, gone, return_exceptions=True)


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
