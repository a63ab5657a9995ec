"""Puts the services together: the one place that knows which part needs which."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy.orm import Session

from opensloth.accounts.audit import AuditService
from opensloth.accounts.keys import KeyService
from opensloth.accounts.rates import RateLimiter
from opensloth.accounts.secrets import SecretService
from opensloth.accounts.teams import TeamService
from opensloth.accounts.users import UserService
from opensloth.chat.service import ChatService
from opensloth.database import Database
from opensloth.datasets.previews import PreviewService
from opensloth.datasets.pulls import PullService
from opensloth.datasets.rows import DatasetPullRow
from opensloth.datasets.service import FileService
from opensloth.datasets.uploads import UploadService
from opensloth.devices.service import DeviceService
from opensloth.events.publisher import Publisher
from opensloth.events.store import EventStore
from opensloth.jobs.assessment import Assessor
from opensloth.jobs.control import ControlService
from opensloth.jobs.data import settle_pull
from opensloth.jobs.deletion import DeletionService
from opensloth.jobs.estimates import EstimateService
from opensloth.jobs.evaluations import EvaluationService
from opensloth.jobs.exports import ExportService
from opensloth.jobs.leases import LeaseService
from opensloth.jobs.on_devices import DeviceViews
from opensloth.jobs.queue import QueueService
from opensloth.jobs.quotas import belongings, require_bytes
from opensloth.jobs.retention import RetentionService
from opensloth.jobs.retries import RetryService
from opensloth.jobs.service import JobService
from opensloth.jobs.stored import checkpoint_of, user_of_file, user_of_models
from opensloth.jobs.usage import UsageService
from opensloth.models.registry import ModelRegistry
from opensloth.plugins import load_plugins
from opensloth.rewards import RewardPolicy
from opensloth.seen import Seen
from opensloth.settings import Settings
from opensloth.storage import Storage
from opensloth.storage.deletions import Deletions
from opensloth.webhooks.addresses import AddressPolicy
from opensloth.webhooks.delivery import Deliveries
from opensloth.webhooks.service import WebhookService


@dataclass(frozen=True)
class Services:
    """Everything that API and worker work with."""

    settings: Settings
    database: Database
    storage: Storage
    publisher: Publisher
    events: EventStore
    keys: KeyService
    files: FileService
    pulls: PullService
    models: ModelRegistry
    rewards: RewardPolicy
    queue: QueueService
    jobs: JobService
    secrets: SecretService
    exports: ExportService

    @cached_property
    def rates(self) -> RateLimiter:
        """How many requests each key may send."""
        return RateLimiter(self.settings.redis, self.settings.requests_per_minute)

    @cached_property
    def users(self) -> UserService:
        """The people and programs that keys speak for."""
        return UserService(self.database, belongings)

    @cached_property
    def teams(self) -> TeamService:
        """Who sees whose work."""
        return TeamService(self.database, belongings)

    @cached_property
    def audit(self) -> AuditService:
        """Who did what."""
        return AuditService(self.database)

    @cached_property
    def uploads(self) -> UploadService:
        """Files that come in parts."""
        return UploadService(self.database, self.storage, self.settings, self.files, self.deletions, require_bytes)

    @cached_property
    def previews(self) -> PreviewService:
        """Rows as a model will see them."""
        timeout_s = self.settings.preview_timeout_s
        return PreviewService(self.database, self.storage, self.files, self.models, timeout_s)

    @cached_property
    def usage(self) -> UsageService:
        """Who used how much."""
        return UsageService(self.database, self.settings)

    @cached_property
    def estimates(self) -> EstimateService:
        """What jobs would need."""
        assessor = self.jobs.assessor
        return EstimateService(self.database, self.models, self.rewards, assessor, self.queue)

    @cached_property
    def control(self) -> ControlService:
        """What people do to jobs that are there."""
        return ControlService(self.database, self.publisher, self.jobs)

    @cached_property
    def chat(self) -> ChatService:
        """Which engine answers for a model."""
        return ChatService(self.database, self.jobs, self.models, self.queue, self.settings)

    @cached_property
    def retries(self) -> RetryService:
        """Tries jobs that are over again."""
        return RetryService(self.database, self.storage, self.jobs, self.exports, self.evaluations, self.leases)

    @cached_property
    def evaluations(self) -> EvaluationService:
        """Whether results are better than what they were made from."""
        return EvaluationService(self.database, self.storage, self.jobs, self.models, self.rewards)

    @cached_property
    def leases(self) -> LeaseService:
        """Takes people's own commands."""
        return LeaseService(self.jobs)

    @cached_property
    def deletions(self) -> Deletions:
        """What is on its way out of storage."""
        return Deletions(self.database, self.storage)

    @cached_property
    def deletion(self) -> DeletionService:
        """Deletes jobs."""
        return DeletionService(self.database, self.deletions)

    @cached_property
    def webhooks(self) -> WebhookService:
        """Whom to tell what happens to jobs."""
        return WebhookService(self.database, self.secrets, AddressPolicy(self.settings.webhook_allow))

    @cached_property
    def deliveries(self) -> Deliveries:
        """What is on its way to webhooks."""
        return Deliveries(
            self.database,
            self.secrets,
            AddressPolicy(self.settings.webhook_allow),
            first_wait_s=self.settings.webhook_first_wait_s,
            disable_after_days=self.settings.webhook_disable_days,
        )

    @cached_property
    def retention(self) -> RetentionService:
        """What goes when the disk is cleaned."""
        return RetentionService(self.database, self.storage, self.deletions, self.settings)

    @cached_property
    def devices(self) -> DeviceService:
        """Hosts and their devices."""
        return DeviceService(self.database, self.publisher)

    @cached_property
    def device_views(self) -> DeviceViews:
        """Devices with what runs on them."""
        return DeviceViews(self.database, self.settings)

    @classmethod
    def make(cls, settings: Settings) -> Services:
        """The services for these settings, plugins imported; nothing is connected yet."""
        load_plugins(settings.plugin_modules)
        AddressPolicy(settings.webhook_allow)  # a mistake in it is told at the start, not to whoever comes first
        if settings.database_url is None:
            settings.home.expanduser().mkdir(parents=True, exist_ok=True, mode=0o700)
        database = Database(settings.database)
        storage = _storage(settings)
        publisher = Publisher(settings.redis)
        events = EventStore(database, publisher)
        files = FileService(database, storage, settings, user_of_file, require_bytes)
        secrets = SecretService(database, settings)
        models = ModelRegistry(database, storage, publisher, user_of_models, checkpoint_of)
        urls = (settings.reward_urls or "").split()
        rewards = RewardPolicy(urls, settings.rewards, settings.reward_timeout_s, settings.reward_python)

        def on_pull_end(session: Session, pull: DatasetPullRow) -> None:
            settle_pull(session, pull, events, rewards)

        pulls = PullService(database, storage, settings, files, secrets, publisher, on_pull_end)
        queue = QueueService(database, settings)
        jobs = JobService(database, files, pulls, models, events, publisher, rewards, queue, Assessor(storage))
        keys = KeyService(database)
        exports = ExportService(database, jobs, models)
        parts = (settings, database, storage, publisher, events, keys, files, pulls, models, rewards)
        return cls(*parts, queue, jobs, secrets, exports)


def _storage(settings: Settings) -> Storage:
    """The storage; an empty place where this home has had one is a disk that is not mounted."""
    seen = Seen(settings.home)
    storage = Storage(settings.storage, known=settings.storage in seen)
    if storage.folder is not None:
        with suppress(OSError):  # on a full disk, or a read-only one: at a later start
            storage.mark()
            seen.add(settings.storage)
    return storage
