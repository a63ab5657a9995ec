"""Puts the services together: the one place that knows which part needs which."""

from __future__ import annotations

from dataclasses import dataclass

from opensloth.accounts.keys import KeyService
from opensloth.database import Database
from opensloth.datasets.service import FileService
from opensloth.events.publisher import Publisher
from opensloth.events.store import EventStore
from opensloth.jobs.service import JobService, user_of_file, user_of_models
from opensloth.models.registry import ModelRegistry
from opensloth.settings import Settings
from opensloth.storage import Storage


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
    models: ModelRegistry
    jobs: JobService

    @classmethod
    def make(cls, settings: Settings) -> Services:
        """The services for these settings; nothing is connected yet."""
        if settings.database_url is None:
            settings.home.expanduser().mkdir(parents=True, exist_ok=True, mode=0o700)
        database = Database(settings.database)
        storage = Storage(settings.storage)
        publisher = Publisher(settings.redis)
        events = EventStore(database, publisher)
        files = FileService(database, storage, settings, user_of_file)
        models = ModelRegistry(database, storage, publisher, user_of_models)
        jobs = JobService(database, files, models, events, publisher)
        return cls(settings, database, storage, publisher, events, KeyService(database), files, models, jobs)
