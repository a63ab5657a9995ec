"""teams, users, usage and an audit log; devices as NVML sees them; memory and expected times of jobs.

Revision: 0003, after: 0002
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NOW = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "EXTRACT(EPOCH FROM clock_timestamp())",
}
LIMITS: tuple[tuple[str, Any, bool], ...] = (
    ("share", sa.Double(), False),
    ("max_devices", sa.BigInteger(), True),
    ("max_queued", sa.BigInteger(), True),
    ("device_hours", sa.Double(), True),
    ("max_bytes", sa.BigInteger(), True),
)
ADDED: dict[str, tuple[tuple[str, Any, str | None], ...]] = {
    "api_keys": (("scopes", sa.JSON(), None), ("last_used_at", sa.Double(), None)),
    "files": (("team", sa.String(), "default"),),
    "models": (("team", sa.String(), None),),
    "devices": (
        ("used_bytes", sa.BigInteger(), None),
        ("foreign_bytes", sa.BigInteger(), "0"),
        ("utilization", sa.BigInteger(), None),
        ("temperature", sa.BigInteger(), None),
        ("processes", sa.JSON(), "[]"),
        ("draining", sa.Boolean(), "false"),
        ("quarantined", sa.String(), None),
        ("quarantined_at", sa.Double(), None),
    ),
    "jobs": (
        ("team", sa.String(), "default"),
        ("own_rank", sa.BigInteger(), "0"),
        ("memory_bytes", sa.BigInteger(), None),
        ("exclusive", sa.Boolean(), "false"),
        ("shape", sa.String(), None),
        ("expected_s", sa.Double(), None),
        ("promised_start", sa.Double(), None),
    ),
    "attempts": (
        ("first_step_at", sa.Double(), None),
        ("promised_end", sa.Double(), None),
        ("memory_bytes", sa.BigInteger(), None),
        ("peak_bytes", sa.BigInteger(), None),
    ),
}
"""Column, type and server default (then not null) by table."""


def upgrade() -> None:
    """Everybody who has a key becomes a user of the team `default`, so that all see what they saw before."""
    op.create_table(
        "teams",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        *(sa.Column(name, kind, nullable=null) for name, kind, null in LIMITS),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_teams")),
    )
    op.create_table(
        "users",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("team", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("disabled_at", sa.Double(), nullable=True),
        *(sa.Column(name, kind, nullable=null) for name, kind, null in LIMITS),
        sa.ForeignKeyConstraint(["team"], ["teams.name"], name=op.f("fk_users_team_teams")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_users")),
    )
    op.create_index(op.f("ix_users_team"), "users", ["team"])
    op.create_table(
        "usage",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("team", sa.String(), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("device_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "team", "day", name=op.f("pk_usage")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("team", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_actor"), "audit", ["actor"])
    op.create_index("ix_audit_recent", "audit", ["time", "id"])
    op.create_table(
        "job_shapes",
        sa.Column("shape", sa.String(), nullable=False),
        sa.Column("peak_bytes", sa.BigInteger(), nullable=True),
        sa.Column("start_s", sa.Double(), nullable=True),
        sa.Column("step_s", sa.Double(), nullable=True),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("shape", name=op.f("pk_job_shapes")),
    )
    for table, columns in ADDED.items():
        with op.batch_alter_table(table, schema=None) as batch_op:
            for name, kind, default in columns:
                text = None if default is None else sa.text(default) if default == "false" else default
                batch_op.add_column(sa.Column(name, kind, nullable=default is None, server_default=text))
    op.create_index("ix_jobs_team_recent", "jobs", ["team", "created_at", "id"])
    now = NOW[op.get_bind().dialect.name]
    op.execute(f"INSERT INTO teams (name, created_at, share) VALUES ('default', {now}, 1.0)")
    op.execute(
        "INSERT INTO users (name, team, role, created_at, share) "
        f"SELECT owner, 'default', CASE WHEN MAX(CASE WHEN role = 'admin' THEN 1 ELSE 0 END) = 1 "
        f"THEN 'admin' ELSE 'member' END, {now}, 1.0 FROM api_keys GROUP BY owner"
    )
    op.execute("UPDATE models SET team = 'default' WHERE kind = 'result'")


def downgrade() -> None:
    op.drop_index("ix_jobs_team_recent", "jobs")
    for table, columns in ADDED.items():
        with op.batch_alter_table(table, schema=None) as batch_op:
            for name, _, _ in columns:
                batch_op.drop_column(name)
    for table in ("job_shapes", "audit", "usage", "users", "teams"):
        op.drop_table(table)
