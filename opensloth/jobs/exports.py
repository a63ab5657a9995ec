"""Exports: jobs that turn the result of another job into another form."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from opensloth.accounts.callers import Caller
from opensloth.accounts.secrets import SecretService
from opensloth.errors import FieldError, InvalidInput
from opensloth.jobs.derived import DerivedJobs, Own
from opensloth.jobs.export_spec import SCHEMA_VERSION, ExportSpec, parse_export_spec
from opensloth.jobs.rows import JobRow
from opensloth.models.choices import ModelChoice


class ExportService(DerivedJobs[ExportSpec]):
    """Accepts and lists exports."""

    kind = "export"
    done = "exported"
    schema_version = SCHEMA_VERSION

    def parse(self, body: Any) -> ExportSpec:
        """The spec that a client posted; raises InvalidInput."""
        return parse_export_spec(body)

    def own(
        self, session: Session, source: JobRow, choice: ModelChoice | None, spec: ExportSpec, caller: Caller
    ) -> Own:
        """Its name and needs; raises InvalidInput where the result has not this form, or its secret is missing."""
        if spec.format == "adapter" and choice is not None and choice.adapter_key is None:
            message = 'the job trained the whole model; use "merged_16bit" or "gguf"'
            raise InvalidInput("the result is no adapter", fields=[FieldError("format", message)])
        if spec.push_to_hub is not None:
            SecretService.require(session, caller.owner, spec.push_to_hub.secret, "push_to_hub.secret")
        return Own(f"{source.name[:110]} {spec.form}", spec.format, spec.quantization or "16bit")
