"""What ended jobs have needed, by shape: jobs of one shape train the same model in the same way on rows as long."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from opensloth.database import insert_of, now_of
from opensloth.devices.rows import ShapeRow

_MOST_SIMILAR = 100
"""Rows that are looked at for the nearest one."""


@dataclass(frozen=True)
class Known:
    """What a job has needed: bytes on a device, seconds to its first step, seconds a step; None: not measured."""

    peak_bytes: int | None
    start_s: float | None
    step_s: float | None


def shape_key(
    *,
    device: str,
    engine: str,
    method: str,
    model: str,
    precision: str,
    adapter: str,
    memory: str,
    tokens: int,
    batch: int,
    passes: int,
    world_size: int,
    data: str,
) -> str:
    """A text that is the same for two jobs which need the same memory and time for a step.

    What stands before the first `|` is what similar jobs share as well. `adapter` is the LoRA shape or "full",
    `memory` what else bears on memory (optimizer, checkpointing), `passes` those of one optimizer step, `data` tells
    datasets apart where the lengths of their rows decide; sizes in tokens and rows.
    """
    what = "/".join((device, engine, method, model, precision)).replace("|", "_")
    sizes = f"tokens={tokens}|batch={batch}|passes={passes}|devices={world_size}"
    return f"{what}|{sizes}|{adapter}|{memory}|{data}"


def learn(session: Session, shape: str, *, peak_bytes: int | None, start_s: float | None, step_s: float | None) -> None:
    """Take up what a job that succeeded has needed: the largest peak of all, the newest times."""
    now = now_of(session)
    values = {"peak_bytes": peak_bytes, "start_s": start_s, "step_s": step_s, "updated_at": now}
    insert = insert_of(session)(ShapeRow).values(shape=shape, jobs=1, **values)
    new = insert.excluded
    kept, higher = ShapeRow.peak_bytes, new.peak_bytes > ShapeRow.peak_bytes
    session.execute(
        insert.on_conflict_do_update(
            index_elements=[ShapeRow.shape],
            set_={
                "peak_bytes": case((kept.is_(None), new.peak_bytes), (higher, new.peak_bytes), else_=kept),
                "start_s": func.coalesce(new.start_s, ShapeRow.start_s),
                "step_s": func.coalesce(new.step_s, ShapeRow.step_s),
                "jobs": ShapeRow.jobs + 1,
                "updated_at": now,
            },
        )
    )


def known(session: Session, shape: str) -> Known | None:
    """What jobs of exactly this shape have needed; None if there was none."""
    row = session.get(ShapeRow, shape)
    return None if row is None else Known(row.peak_bytes, row.start_s, row.step_s)


def similar(session: Session, shape: str) -> Known | None:
    """What the nearest job of another size has needed, its step scaled by the tokens in it; None if there is none.

    The memory of another size says too little about this one, and is left out.
    """
    what = shape.partition("|")[0]
    rows = session.scalars(
        select(ShapeRow)
        .where(ShapeRow.shape.startswith(f"{what}|", autoescape=True), ShapeRow.step_s.is_not(None))
        .order_by(ShapeRow.updated_at.desc())
        .limit(_MOST_SIMILAR)
    ).all()
    if not rows:
        return None
    work = _work(shape)
    nearest = min(rows, key=lambda row: abs(math.log(_work(row.shape) / work)))
    return Known(None, nearest.start_s, (nearest.step_s or 0.0) * work / _work(nearest.shape))


def _work(shape: str) -> int:
    """Tokens of one optimizer step on one device."""
    named = dict(part.split("=", 1) for part in shape.split("|")[1:] if "=" in part)
    return max(1, int(named["tokens"]) * int(named["batch"]) * int(named["passes"]))
