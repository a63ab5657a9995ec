"""All settings of API and worker, read from `OPENSLOTH_*` variables; each has a default that works on one machine."""

from __future__ import annotations

import socket
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where things are and how patient each part is; durations in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="OPENSLOTH_", env_ignore_empty=True, extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".opensloth")
    """Database, embedded Valkey, credentials and scratch of this machine."""
    host: str = "127.0.0.1"
    """Address that the API listens on."""
    port: int = 8400
    """Port that the API listens on."""
    auth: Literal["on", "off"] = "on"
    """`off`: requests need no key and are taken from this machine alone."""
    requests_per_minute: int = Field(default=6000, ge=0)
    """What a key may send; an admin may say otherwise for a key, a user or a team. 0: without limit."""
    log_level: str = "INFO"
    """The least level that the worker's log shows."""
    database_url: str | None = None
    """SQLAlchemy URL; `$OPENSLOTH_HOME/opensloth.db` if not set."""
    redis_url: str | None = None
    """Redis or Valkey; `opensloth up` sets it to its embedded one."""
    storage_url: str | None = None
    """Directory or fsspec URL that API and workers share; `$OPENSLOTH_HOME/storage` if not set."""

    host_id: str = Field(default_factory=socket.gethostname)
    """Name of this worker's host; one worker a host."""
    devices: str = "auto"
    """`auto` (every CUDA GPU, else one CPU slot), `cpu:N`, or CUDA indices or UUIDs with commas."""

    max_upload_bytes: int = 20 * 2**30
    """The largest dataset file."""
    max_line_bytes: int = 32 * 2**20
    """The longest row of a dataset file."""
    preview_timeout_s: float = 30.0
    """The longest that the preview of a file may take; half of it is for the statistics."""

    min_free_bytes: int = 2 * 2**30
    """Free space below which nothing is taken in and no job is started, of storage and home each; 0: never."""
    keep_checkpoints_days: float | None = Field(default=None, ge=0)
    """How long the checkpoints of an ended job stay; for ever if not set. A worker removes them within an hour."""
    keep_logs_days: float | None = Field(default=None, ge=0)
    """How long the logs of an ended job stay; for ever if not set."""
    keep_results_days: float | None = Field(default=None, ge=0)
    """How long the result of an ended job stays, unless the job is kept; for ever if not set."""

    leases: bool = False
    """Whether this host runs people's own commands (`opensloth lease`), as the accounts that an admin gave them."""

    plugins: str | None = None
    """Modules with further training types, with commas; API, worker and trainers import them, so all must have them."""
    reward_urls: str | None = None
    """URLs that jobs may name as `http` rewards, with spaces between."""
    rewards_dir: Path | None = None
    """Folder of an administrator's own rewards in Python; `$OPENSLOTH_HOME/rewards` if not set."""
    reward_timeout_s: float = 60.0
    """The longest that one reward may take for one batch of answers."""
    reward_python: bool = False
    """Whether jobs may bring Python of their own as a reward (OpenAI's `python` grader); it runs in the sandbox."""

    webhook_allow: str | None = None
    """Hosts and networks (CIDR) that webhooks may go to though they are not public, with spaces between; http too."""
    webhook_first_wait_s: float = Field(default=5.0, gt=0)
    """Wait before a webhook's second attempt; the later ones grow with it, to three days in all."""
    webhook_disable_days: float = Field(default=5.0, ge=0)
    """A webhook to which nothing could be delivered for so long is disabled."""

    secret_key: str | None = Field(default=None, repr=False)
    """Key that encrypts secrets: 32 bytes in URL-safe base64, the same on all hosts; if not set, `secret.key` in
    `$OPENSLOTH_HOME`."""

    chat_idle_s: float = Field(default=300.0, gt=0)
    """A chat engine gives its device back when nobody has asked it anything for so long."""
    chat_turn_s: float = Field(default=30.0, ge=0)
    """How long a chat engine answers before another model's engine may have its device; jobs have it at once."""
    chat_wait_s: float = Field(default=60.0, ge=0)
    """The longest that a request waits for a device for its model's engine; then it is told to come again."""
    chat_context_tokens: int = Field(default=8192, ge=64)
    """The longest prompt with its answer, in tokens, where the model has room for more."""
    chat_address: str | None = None
    """Address of this host that its chat engines listen on, for the API alone; if not set, the one from which the
    host reaches the database."""
    chat_module: str = "opensloth.chat.engine.main"
    """What a chat engine runs; tests of the service put a fast one here."""

    exporter_module: str = "opensloth.training.export_main"
    """What an export runs; tests of the service put a fast one here."""
    evaluator_module: str = "opensloth.training.evaluation_main"
    """What an evaluation runs; tests of the service put a fast one here."""
    prepared_cache_bytes: int = 20 * 2**30
    """What the prepared datasets of a host may take; those used longest ago go first."""

    compiled_cache_bytes: int = 10 * 2**30
    """What compiled kernels of a host may take; trimmed when the worker starts."""

    standby: int | None = Field(default=None, ge=0)
    """Trainers that have done their slow imports and wait for a job, for each device; if not set, 2 for a GPU (one for
    each engine that was used) and none for a CPU slot. Each takes 1 to 1.5 GiB of the host's memory."""
    trainer_module: str = "opensloth.training.main"
    """What a rank runs; tests of the service put a fast one here."""

    nvml_module: str = "pynvml"
    """What reads the GPUs; tests put a fake driver here."""
    nvml_timeout_s: float = 20.0
    """A driver that has not answered for this long takes its GPUs out of service until it does."""
    device_free_s: float = 30.0
    """A GPU that has not freed a job's memory this long after the job's processes are gone is quarantined."""

    lease_s: float = 30.0
    """A running attempt whose lease is older than this is lost."""
    lease_renew_s: float = 10.0
    """How often a worker renews the leases of its attempts."""
    host_timeout_s: float = 10.0
    """A host not heard from for this long gets no placements."""
    heartbeat_s: float = 2.0
    """How often a worker refreshes its host and device rows."""
    poll_s: float = 3.0
    """How often a worker looks at the database without being woken."""
    stop_grace_s: float = 30.0
    """The least time between SIGTERM and SIGKILL; a job's longest step and save time add to it."""
    stall_s: float = 600.0
    """A job without a step for this long, or for 20 of its own if they are longer, is ended and tried again; loading,
    evaluating and saving may take six times as long without a sign."""
    checkpoint_interval_s: float = 600.0
    """How often a job saves a checkpoint, whatever its steps."""
    min_run_s: float = 600.0
    """A job is not preempted before it has run this long, nor for one that starts anyway within three tenths of it."""
    retry_backoff_s: float = 5.0
    """Wait before the first retry; doubles with each."""

    @property
    def database(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite:///{self.home.expanduser() / 'opensloth.db'}"

    @property
    def storage(self) -> str:
        """The storage URL in force."""
        return self.storage_url or str(self.home.expanduser() / "storage")

    @property
    def redis(self) -> str:
        """The Redis URL in force."""
        return self.redis_url or f"unix://{self.home.expanduser() / 'valkey' / 'valkey.sock'}"

    @property
    def rewards(self) -> Path:
        """The folder in force of an administrator's own rewards."""
        return self.rewards_dir or self.home.expanduser() / "rewards"

    @property
    def plugin_modules(self) -> list[str]:
        """The modules of `plugins`, in order."""
        return [name.strip() for name in (self.plugins or "").split(",") if name.strip()]

    @property
    def runs(self) -> Path:
        """Scratch of the attempts that run on this host."""
        return self.home.expanduser() / "runs"

    @property
    def secret_key_file(self) -> Path:
        """Where the key for secrets is kept on this machine, for its owner alone."""
        return self.home.expanduser() / "secret.key"


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
