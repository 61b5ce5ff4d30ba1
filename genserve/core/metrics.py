"""Every metric, defined and fed here. Names follow the conventions of other model servers, with
Prometheus base units. Labels hold catalogue ids and closed sets only: never a key or a prompt."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from genserve import __version__
from genserve.domain.pool import WorkerInfo
from genserve.domain.request import GenerationRequest
from genserve.domain.task import Result, Task, TaskState

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1200)
"""Bucket bounds: from a cached answer to a long queue."""


class Metrics:
    """The registry and the few verbs that feed it."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "genserve_requests",
            "HTTP requests",
            ["endpoint", "method", "status"],
            registry=registry,
        )
        self._request_s = Histogram(
            "genserve_request_duration_seconds",
            "HTTP request duration",
            ["endpoint"],
            buckets=SECONDS,
            registry=registry,
        )
        self._tasks = Counter(
            "genserve_tasks", "Tasks that ended", ["model", "state"], registry=registry
        )
        self._queue_s = Histogram(
            "genserve_queue_time_seconds",
            "Waiting for a worker",
            buckets=SECONDS,
            registry=registry,
        )
        self._inference_s = Histogram(
            "genserve_inference_time_seconds",
            "Work on a task",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._stage_s = Histogram(
            "genserve_stage_duration_seconds",
            "Part of the work",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._load_s = Histogram(
            "genserve_model_load_seconds",
            "Reading a model",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self._steps = Counter(
            "genserve_steps", "Denoising steps done", ["model"], registry=registry
        )
        self._images = Counter("genserve_images", "Pictures made", ["model"], registry=registry)
        self._pixels = Counter("genserve_pixels", "Pixels made", ["model"], registry=registry)
        self._requeues = Counter(
            "genserve_requeues",
            "Tasks that went back into the queue",
            ["crashed"],
            registry=registry,
        )
        info = Gauge("genserve_build_info", "The running version", ["version"], registry=registry)
        info.labels(__version__).set(1)

    def observe_request(self, endpoint: str, method: str, status: int, duration_s: float) -> None:
        """An HTTP request was answered. `endpoint` is the route's pattern, never its path."""
        self._requests.labels(endpoint, method, str(status)).inc()
        self._request_s.labels(endpoint).observe(duration_s)

    def observe_done(
        self, task: Task, request: GenerationRequest, result: Result, waited_s: float
    ) -> None:
        """A task was completed by `result`, after `waited_s` in the queue."""
        model = result.served_by
        self.observe_ended(task.asked.model, TaskState.COMPLETED)
        self._queue_s.observe(max(0.0, waited_s))
        self._inference_s.labels(model).observe(result.generation_s)
        if result.load_s:
            self._load_s.labels(model).observe(result.load_s)
        for stage, duration_s in result.stages_s.items():
            self._stage_s.labels(stage).observe(duration_s)
        self._steps.labels(model).inc((request.steps or 0) * len(result.images))
        self._images.labels(model).inc(len(result.images))
        self._pixels.labels(model).inc(sum(image.width * image.height for image in result.images))

    def observe_ended(self, model: str, state: TaskState) -> None:
        """A task ended in `state`; `model` is the one that was asked for."""
        self._tasks.labels(model, state).inc()

    def observe_requeue(self, *, crashed: bool) -> None:
        """A task went back into the queue."""
        self._requeues.labels(str(crashed).lower()).inc()

    def watch_queue(self, counts: Callable[[], dict[TaskState, int]]) -> None:
        """Report the queue's depth as `counts` tells it, whenever metrics are read."""
        self._registry.register(_Reader(lambda: _queue_metrics(counts())))

    def watch_workers(self, workers: Callable[[], Iterable[WorkerInfo]]) -> None:
        """Report the workers as `workers` tells them, whenever metrics are read."""
        self._registry.register(_Reader(lambda: _worker_metrics(list(workers()))))

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _Reader(Collector):
    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()


def _queue_metrics(counts: dict[TaskState, int]) -> Iterable[Metric]:
    depth = GaugeMetricFamily("genserve_queue_depth", "Tasks that wait for a worker")
    depth.add_metric([], counts.get(TaskState.PENDING, 0))
    running = GaugeMetricFamily("genserve_requests_running", "Tasks that workers work on")
    running.add_metric([], counts.get(TaskState.PROCESSING, 0))
    return depth, running


def _worker_metrics(workers: list[WorkerInfo]) -> Iterable[Metric]:
    by_state = GaugeMetricFamily("genserve_workers", "Worker processes", labels=["state"])
    for state in sorted({worker.state for worker in workers}):
        by_state.add_metric([state], sum(worker.state is state for worker in workers))
    restarts = GaugeMetricFamily("genserve_worker_restarts", "Times restarted", labels=["worker"])
    loaded = GaugeMetricFamily("genserve_models_loaded", "Models in memory", labels=["worker"])
    memory = GaugeMetricFamily("genserve_gpu_memory_bytes", "Device memory", labels=["gpu", "kind"])
    for worker in workers:
        restarts.add_metric([worker.id], worker.restarts)
        loaded.add_metric([worker.id], len(worker.loaded))
        for kind, size in (("total", worker.memory_total), ("used", worker.memory_used)):
            if size is not None:
                memory.add_metric([worker.id, kind], size)
    return by_state, restarts, loaded, memory
