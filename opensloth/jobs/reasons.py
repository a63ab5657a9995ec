"""Why an attempt ended, in one table: what it means, what to do, and whether trying again can help."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """One reason code.

    `retryable`: the same job may succeed when it is tried again. `charged`: a retry counts against `max_retries`.
    `limit`: so many attempts that end so, without a checkpoint made between them, end the job as `beyond`, or are
    charged from then on where that is None. `opensloth.jobs.retry_policy` applies it.
    """

    code: str
    message: str
    hint: str
    retryable: bool = False
    charged: bool = True
    limit: int | None = None
    beyond: str | None = None


_ALL = [
    Reason(
        "cuda_oom", "the GPU ran out of memory", "lower per_device_train_batch_size or max_seq_length, or load in 4-bit"
    ),
    Reason("cpu_oom", "the host ran out of memory", "lower per_device_train_batch_size or max_seq_length"),
    Reason(
        "estimate_low",
        "it needed more memory than was estimated",
        "it is tried again with whole devices; resources.memory says beforehand what a job needs",
        retryable=True,
        charged=False,
    ),
    Reason(
        "crowded_out",
        "another process took the memory of its device",
        "it is tried again; resources.exclusive keeps a device for one job",
        retryable=True,
        charged=False,
        limit=3,
    ),
    Reason(
        "device_lost",
        "a device went out of service",
        "it goes on elsewhere; `opensloth devices` says why",
        retryable=True,
        charged=False,
    ),
    Reason(
        "device_error",
        "the GPU failed",
        "it is tried again; `opensloth devices` shows the GPU's health",
        retryable=True,
        charged=False,
    ),
    Reason("nan_loss", "the loss or its gradient became NaN or infinite", "lower learning_rate and look at the data"),
    Reason("dataset_error", "the dataset cannot be trained on", "correct the dataset and submit again"),
    Reason("reward_failed", "a reward function failed", "correct the reward that the message names"),
    Reason(
        "dataset_not_found",
        "the hub has no such dataset",
        "look at its name, revision, configuration and split; a private one needs a token as secrets.hub",
    ),
    Reason("model_not_found", "the model cannot be found", "`opensloth models list` shows what is registered"),
    Reason("model_error", "the model cannot be loaded", "check that it is a causal language model in safetensors"),
    Reason("invalid_arguments", "the training arguments are not accepted", "correct what the message names"),
    Reason(
        "checkpoint_error", "a checkpoint cannot be read", "submit again to start from the beginning", retryable=True
    ),
    Reason("storage_error", "the storage cannot be read or written", "check its space and its mount", retryable=True),
    Reason("export_unsupported", "this result has no such form", "the message says which other form there is"),
    Reason("export_differs", "the exported model was not the job's", "report it with the job's log; nothing was kept"),
    Reason("push_refused", "the hub refused the push", "look at the secret's token: it needs write access"),
    Reason(
        "hub_refused",
        "the hub gives nothing without the right token",
        "accept the conditions there, and name a secret with your token as secrets.hub",
    ),
    Reason("hub_unavailable", "the hub cannot be reached", "it is tried again", retryable=True),
    Reason("secret_unreadable", "a secret cannot be decrypted", "give API and workers the same OPENSLOTH_SECRET_KEY"),
    Reason("command_failed", "the command failed", "its output says why: `opensloth logs`"),
    Reason("idle", "the command did nothing for its idle limit", "leave idle_limit out, or end it where it ends"),
    Reason("leases_off", "the host runs no commands of people", "set OPENSLOTH_LEASES=on on every worker, or on none"),
    Reason("no_account", "the command has no account to run under", "an admin maps users to accounts of the hosts"),
    Reason(
        "host_outdated",
        "the worker is of a release that does not know this kind of job",
        "update the worker, then `opensloth retry`",
    ),
    Reason("internal_error", "the trainer failed", "the log's last lines say where"),
    Reason("trainer_killed", "the trainer process was killed", "look at the host's memory and its log", retryable=True),
    Reason(
        "worker_killed",
        "the job took its worker down",
        "look at the host's log; if it was not the job that ended the worker, `opensloth retry` starts it again",
    ),
    Reason(
        "host_lost",
        "the host stopped answering",
        "the job goes on elsewhere or when it is back",
        retryable=True,
        charged=False,
        limit=3,
        beyond="worker_killed",
    ),
    Reason(
        "lease_lost",
        "the worker could not renew its lease in time",
        "look at the database and the way to it; the job resumes by itself",
        retryable=True,
        charged=False,
    ),
    Reason(
        "not_taken_up", "the host did not start the job in time", "it is placed again", retryable=True, charged=False
    ),
    Reason(
        "preempted",
        "a job of a higher priority needed the devices",
        "it resumes by itself",
        retryable=True,
        charged=False,
    ),
    Reason("drained", "the host was stopped", "it resumes by itself", retryable=True, charged=False),
    Reason("stalled", "the training made no progress", "the stacks on the job say where it stood", retryable=True),
    Reason("time_limit", "the time limit was reached", "raise time_limit; checkpoints, if it saved any, are kept"),
    Reason("paused", "it was paused", "resume it when it should go on", retryable=True, charged=False),
    Reason("cancelled", "it was cancelled", "submit again if it is still wanted"),
    Reason("dependency_failed", "a job that it depends on did not succeed", "retry that job first"),
    Reason(
        "quota_exceeded",
        "what it needs does not fit what its user or team may store",
        "delete what is not needed, or ask an admin for a higher limit",
    ),
    Reason("input_deleted", "a file or model that it needs was deleted", "upload it again and submit anew"),
    Reason("unplaceable", "no host can ever hold it", "ask for fewer devices"),
]

REASONS: dict[str, Reason] = {reason.code: reason for reason in _ALL}


def reason(code: str) -> Reason:
    """The reason with this code; an unknown code means an internal error."""
    return REASONS.get(code, REASONS["internal_error"])
