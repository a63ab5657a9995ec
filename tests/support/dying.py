"""Makes a part of the service kill itself at a moment: `python -m tests.support.dying MOMENT uvicorn|celery ...`."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any


def die(*_: Any, **__: Any) -> None:
    """As `kill -9` does it."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str) -> None:
    """Die instead of the call."""
    setattr(owner, name, die)


def after(owner: Any, name: str, when: Callable[[Any], Any] = lambda result: True) -> None:
    """Die once the call has done its work, where `when` holds of what it returned."""
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        if when(result):
            die()
        return result

    setattr(owner, name, staticmethod(call) if isinstance(owner.__dict__.get(name), classmethod) else call)


def arrange(moment: str) -> None:
    """Patch what happens at the moment."""
    from opensloth.events.publisher import Publisher
    from opensloth.jobs.admission import Admission
    from opensloth.jobs.service import JobService

    match moment:
        case "before_commit":
            after(Admission, "add")
        case "before_publish":
            before(Publisher, "wake_planner")
        case "before_answer":
            after(JobService, "submit")
        case _:
            arrange_worker(moment)


def arrange_worker(moment: str) -> None:
    """The moments of a worker."""
    import worker.host
    import worker.standby
    from opensloth.jobs.attempts import AttemptService
    from worker.processes import Ranks

    match moment:
        case "placed":
            after(worker.host, "plan_round", when=bool)
        case "taken_up":
            after(AttemptService, "take_up", when=bool)
        case "spawned":
            after(Ranks, "spawn")
        case "standby_asked":
            after(worker.standby, "say")
        case "standby_taken":
            after(worker.standby.Standby, "hand_over")
        case "stopping":
            after(Ranks, "terminate")
        case "before_end":
            before(AttemptService, "end")
        case "after_end":
            after(AttemptService, "end")
        case _:
            raise SystemExit(f"there is no moment {moment!r}")


if __name__ == "__main__":
    arrange(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__")
