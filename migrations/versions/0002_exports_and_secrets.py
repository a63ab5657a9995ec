"""exports as jobs, and secrets.

Revision: 0002, after: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name", name=op.f("pk_secrets")),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("kind", sa.String(), nullable=False, server_default="training"))
        batch_op.add_column(sa.Column("export_of", sa.String(), nullable=True))
        batch_op.alter_column("dataset_id", existing_type=sa.String(), nullable=True)
        batch_op.create_index(batch_op.f("ix_jobs_export_of"), ["export_of"], unique=False)


def downgrade() -> None:
    """Exports are lost: the older release has no word for them."""
    op.execute("DELETE FROM job_dependencies WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'export')")
    for table in ("attempts", "checkpoints", "device_leases", "event_counters", "events", "idempotency_keys"):
        op.execute(f"DELETE FROM {table} WHERE job_id IN (SELECT id FROM jobs WHERE kind = 'export')")
    op.execute("DELETE FROM job_dependencies WHERE depends_on IN (SELECT id FROM jobs WHERE kind = 'export')")
    op.execute("DELETE FROM jobs WHERE kind = 'export'")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_jobs_export_of"))
        batch_op.alter_column("dataset_id", existing_type=sa.String(), nullable=False)
        batch_op.drop_column("export_of")
        batch_op.drop_column("kind")
    op.drop_table("secrets")
