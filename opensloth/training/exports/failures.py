"""Why an export fails on purpose. Imports no torch."""

from __future__ import annotations

from opensloth.errors import OpenSlothError


class ExportFailed(OpenSlothError):
    """The export cannot be made; `error_code` is the job's reason."""

    code = "export_unsupported"
