"""How many asynchronous `POST /generate` a second are accepted over HTTP, durably.

The server runs in its own process with the shipped limits (100 requests a minute for each key),
1,000 keys and one worker, which is busy with slow tasks as a GPU is. An answer other than 202
counts as a failure.
"""

import asyncio
import itertools
import json
from pathlib import Path

import uvloop

from genserve.cli.bench import load
from genserve.cli.bench.keys import make_keys
from genserve.cli.bench.process import cpu_s, serving
from genserve.cli.bench.report import Figure, Report, percentile
from genserve.cli.bench.settings import MODEL, settings

KEYS = 1_000
CONNECTIONS = 64
GOAL_PER_S = 800.0
BODY = {
    "prompt": "a red cat on a blue background fake:sleep=1",
    "model_id": MODEL,
    "width": 512,
    "height": 512,
    "num_inference_steps": 20,
    "async": True,
}


def measure(folder: Path, size: int) -> Report:
    """Send `size` requests, each key in turn."""
    keys = make_keys(folder / "data", min(KEYS, size))
    body = json.dumps(BODY).encode()
    with serving(folder, settings()) as server:
        prepared = [load.post(server.url, "/generate", key, body) for key in keys]
        requests = itertools.islice(itertools.cycle(prepared), size)
        before_s = cpu_s(server.pid)
        outcome = _run(server.url, requests)
        used_s = cpu_s(server.pid) - before_s
    accepted = outcome.statuses[202]
    latencies = outcome.latencies_s
    return Report(
        benchmark="http",
        done=f"{size} asynchronous POST /generate, {len(keys)} keys, {CONNECTIONS} connections",
        figures=[
            Figure("accepted", accepted / outcome.elapsed_s, "a second", at_least=GOAL_PER_S),
            Figure("not accepted", size - accepted, "requests", at_most=0),
            Figure("processor time of the server", used_s / size * 1e3, "ms a request"),
            Figure("answer, p50", percentile(latencies, 0.5) * 1e3, "ms"),
            Figure("answer, p99", percentile(latencies, 0.99) * 1e3, "ms"),
        ],
        notes=[f"statuses: {dict(outcome.statuses)}"],
    )


def _run(url: str, requests: "itertools.islice[bytes]") -> load.Outcome:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(load.send_all(url, requests, connections=CONNECTIONS))
