"""The configuration's shape: every setting, its default and its limits.

One frozen object, read once at start by `config_sources.load` and passed down. `config.yaml` at
the top of the repository shows every setting with a comment; a test keeps the two in step.
Suffixes are units: `_s` seconds, `_mib` and `_gib` binary mega- and gigabytes.
"""

import re
from ipaddress import ip_network
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

DEFAULT_API_KEY = "genserve-default-key-2024"
"""The documented key that works on loopback until a real key exists."""

SOURCE = r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?$"
"""A repository of Hugging Face's hub, maybe at a revision."""

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Permission = Literal["generation", "readonly", "admin", "all"]


class Section(BaseModel):
    """A frozen part of the configuration that refuses settings it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(Section):
    """Where the server listens and how patient it is."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 12411
    public_url: str | None = None
    """What links in answers begin with; absent: the address of the request."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    drain_s: Annotated[float, Field(ge=0)] = 30
    header_timeout_s: Seconds = 10
    body_timeout_s: Seconds = 60

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            ip_network(text, strict=False)
        return texts

    @field_validator("public_url")
    @classmethod
    def _is_a_url(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"https?://[^\s?#]+", text):
            raise ValueError("must look like https://images.example.org")
        return text


class Api(Section):
    """Limits on what callers may send, and how answers look."""

    rate_limit: str = "100/minute"
    auth_failure_limit: str = "20/minute"
    max_unauthenticated_kib: Count = 64
    max_body_mib: Annotated[float, Field(gt=0)] = 64
    max_image_mib: Annotated[float, Field(gt=0)] = 25
    max_megapixels: Annotated[float, Field(gt=0)] = 40
    max_prompt_chars: Count = 20_000
    max_json_depth: Count = 32
    image_url_ttl_s: Seconds = 3600
    embed_metadata: bool = True
    previews: bool = True
    """Show in a task's events now and then what its picture looks like so far."""
    public_metrics: bool = False
    """Serve /metrics without a key to peers that are not on this machine too."""

    @field_validator("rate_limit", "auth_failure_limit")
    @classmethod
    def _is_a_rate(cls, text: str) -> str:
        if not re.fullmatch(r"[1-9]\d*/(second|minute|hour|day)", text):
            raise ValueError('must look like "100/minute" (second, minute, hour or day)')
        return text


class DeclaredKey(Section):
    """An API key that the operator declares. `variable` says where, for messages."""

    key: Annotated[SecretStr, Field(min_length=8)]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    permissions: Annotated[frozenset[Permission], Field(min_length=1)]
    owner: str | None = None
    priority_floor: Annotated[int, Field(ge=-100, le=100)] = 0
    variable: str = "keys.declared"


class Keys(Section):
    """API keys and what encrypts them."""

    declared: tuple[DeclaredKey, ...] = ()
    encryption_key: SecretStr | None = None
    """44 characters of url-safe base64; several, separated by commas, while rotating."""
    default_key: bool = True
    """Whether the documented default key works on loopback while no real key exists."""


class Queue(Section):
    """Order, limits and patience of the task queue."""

    max_tasks: Count = 10_000
    max_per_owner: Count = 1_000
    waiting_limit_s: Seconds = 3600
    time_limit_s: Seconds = 240
    ageing_s: Seconds = 600
    window: Annotated[int, Field(ge=1, le=1000)] = 32
    max_passes: Annotated[int, Field(ge=0)] = 32
    poison_after: Count = 3
    cost_s_per_megapixel_step: Seconds = 0.15
    """Fair share counts work in seconds: count x megapixels x steps x this."""
    idempotency_ttl_s: Seconds = 86_400


class Retention(Section):
    """How long finished tasks and their pictures are kept: until either limit is met."""

    max_age_days: Annotated[float, Field(gt=0)] = 7
    max_gib: Annotated[float, Field(gt=0)] = 10


class Pool(Section):
    """The worker processes and their deadlines."""

    devices: tuple[int, ...] | str = "auto"
    load_timeout_s: Seconds = 600
    min_step_timeout_s: Seconds = 30
    step_timeout_factor: Annotated[float, Field(gt=1)] = 10
    decode_timeout_s: Seconds = 120
    start_timeout_s: Seconds = 120
    restart_min_s: Seconds = 0.1
    restart_max_s: Seconds = 30
    threads: Annotated[int, Field(ge=0)] = 0
    """Compute threads of a worker process; 0: the cores divided among the workers."""
    preload: tuple[str, ...] = ()
    """Models that each worker loads as soon as it is up."""
    lora_cache_mib: Annotated[int, Field(ge=0)] = 1024
    """CPU memory of each worker for LoRA files that it has read."""
    lora_gpu_gib: Annotated[float, Field(ge=0)] = 0
    """GPU memory of each worker for the original weights under LoRAs; beyond it CPU memory."""
    idle_unload_s: Annotated[float, Field(ge=0)] = 0
    """A model that no task used for so long is unloaded; 0: never."""

    @field_validator("devices", mode="before")
    @classmethod
    def _names_devices(cls, value: object) -> object:
        if isinstance(value, str) and re.fullmatch(r"auto|cpu:[1-9]\d*", value):
            return value
        if isinstance(value, list | tuple) and value:
            numbers = {number for number in value if type(number) is int and number >= 0}
            if len(numbers) == len(value):
                return tuple(value)
        raise ValueError("must be auto, cpu:N or a list of different GPU numbers as [0, 1]")


class Store(Section):
    """The database. Absent `url`: SQLite in the data folder."""

    url: SecretStr | None = None


class Log(Section):
    """What is written to the log, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    """auto: for people on a terminal, JSON lines otherwise."""
    prompts: bool = False


class ModelDefaults(Section):
    """What a request for this model gets where it says nothing; absent: the family's."""

    width: Count | None = None
    height: Count | None = None
    steps: Count | None = None
    guidance: Annotated[float, Field(ge=0)] | None = None
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    scheduler: str | None = None


class Model(Section):
    """One model: where it lies and what it can do."""

    family: str
    folder: str | None = None
    """Below `models_dir`; absent: the model's id."""
    source: Annotated[str | None, Field(pattern=SOURCE)] = None
    """Where `genserve models pull` gets it: "owner/name" or "owner/name@revision" on the hub."""
    description: str = ""
    modes: Annotated[tuple[str, ...], Field(min_length=1)] = ("text2img",)
    control_types: tuple[str, ...] = ()
    base: str | None = None
    """Id of the model that this one adds to: it lends what is not in the folder."""
    controls: dict[str, str] = {}
    """ControlNets: control type → folder below `models_dir`."""
    vae: str | None = None
    """A VAE instead of the folder's own: a folder or .safetensors file below `models_dir`."""
    schedulers: tuple[str, ...] = ("euler",)
    sigmas: tuple[Literal["karras", "exponential", "beta"], ...] = ()
    """How a request may space the noise levels other than the model's own way."""
    clip_skip: bool = False
    """Whether a request may choose the layer of the text encoder that is read."""
    vaes: bool = False
    """Whether a request may name another VAE."""
    embeddings: bool = False
    """Whether the files of `embeddings_dir` are words of its prompts."""
    loras: bool = False
    lora_base: str | None = None
    """The family whose LoRAs it takes; absent: its own."""
    negative_prompt: bool = False
    multiple_of: Count = 16
    max_pixels: Count = 4_194_304
    stand_in: str | None = None
    upscale: bool = False
    native_pixels: Count | None = None
    buckets: tuple[tuple[Count, Count], ...] = ()
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "fp8", "nf4"] = "none"
    offload: Literal["none", "model", "group", "sequential"] = "none"
    vae_tiling: bool = False
    defaults: ModelDefaults = ModelDefaults()
    options: dict[str, str | int | float | bool] = {}

    @field_validator("folder", "vae")
    @classmethod
    def _lies_below(cls, name: str | None) -> str | None:
        return None if name is None else _below_models(name)

    @field_validator("controls")
    @classmethod
    def _lie_below(cls, controls: dict[str, str]) -> dict[str, str]:
        return {control: _below_models(name) for control, name in controls.items()}


def _below_models(name: str) -> str:
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError("must be a name below models_dir, without ..")
    return name


class Config(BaseSettings):
    """Everything the server can be told."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="GENSERVE_")

    data_dir: Path = Path("data")
    models_dir: Path = Path("models")
    loras_dir: Path = Path("loras")
    embeddings_dir: Path = Path("embeddings")
    server: Server = Server()
    api: Api = Api()
    keys: Keys = Keys()
    queue: Queue = Queue()
    retention: Retention = Retention()
    pool: Pool = Pool()
    store: Store = Store()
    log: Log = Log()
    models: dict[str, Model] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is passed in and nothing else: `config_sources` says what that is."""
        return (init_settings,)

    @property
    def database_url(self) -> str:
        """SQLAlchemy's URL of the database."""
        if self.store.url is not None:
            return self.store.url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'genserve.db').absolute()}"

    @property
    def blobs_dir(self) -> Path:
        """Where pictures lie, by content."""
        return self.data_dir / "blobs"

    @property
    def run_dir(self) -> Path:
        """What worker processes leave there: locks of devices, canaries, hashes of weights."""
        return self.data_dir / "run"

    @property
    def secrets_dir(self) -> Path:
        """Where generated secrets lie, readable by the server's user alone."""
        return self.data_dir / "secrets"
