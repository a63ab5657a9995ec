"""What can keep a backup from being made or put back."""

from __future__ import annotations

from opensloth.errors import Conflict, OpenSlothError


class BackupUnusable(OpenSlothError):
    """The backup is not complete, damaged, or of another kind of release."""

    code = "backup_unusable"


class BoxInUse(Conflict):
    """What would be overwritten is in use, or holds something."""

    code = "box_in_use"
