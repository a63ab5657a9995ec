"""What the command's exit code says."""

from __future__ import annotations

from opensloth.remote.errors import ClientError, InvalidRequest, NoCredentials, Unreachable

SUCCEEDED = 0
FAILED = 1
USAGE = 2
CANCELLED = 3
UNREACHABLE = 4
INTERRUPTED = 130

EPILOG = (
    "Exit codes: 0 done, or the job succeeded; 1 the request or the job failed; 2 wrong usage or input; "
    "3 the job was cancelled; 4 no server or no key; 130 Ctrl-C (a job that is watched goes on)."
)


def of_state(state: str) -> int:
    """The exit code for the state a job ended in."""
    return {"succeeded": SUCCEEDED, "cancelled": CANCELLED}.get(state, FAILED)


def of_error(error: ClientError) -> int:
    """The exit code for a request that did not succeed."""
    if isinstance(error, InvalidRequest):
        return USAGE
    return UNREACHABLE if isinstance(error, Unreachable | NoCredentials) else FAILED
