"""datasets from the hub, and secrets for gated models.

Revision: 0004, after: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_OPEN = sa.text("status = 'importing'")


def upgrade() -> None:
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.add_column(sa.Column("source", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("commit", sa.String(), nullable=True))
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.add_column(sa.Column("secret", sa.String(), nullable=True))
    op.create_table(
        "dataset_pulls",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("team", sa.String(), nullable=False, server_default="default"),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("secret", sa.String(), nullable=False, server_default=""),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("file_id", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("importer", sa.String(), nullable=True),
        sa.Column("import_until", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_pulls")),
    )
    with op.batch_alter_table("dataset_pulls", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_dataset_pulls_status"), ["status"], unique=False)
        batch_op.create_index(
            "ix_dataset_pulls_open",
            ["owner", "source", "secret"],
            unique=True,
            sqlite_where=_OPEN,
            postgresql_where=_OPEN,
        )
    op.create_table(
        "job_dataset_pulls",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("field", sa.String(), nullable=False),
        sa.Column("pull_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_job_dataset_pulls_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["pull_id"], ["dataset_pulls.id"], name=op.f("fk_job_dataset_pulls_pull_id_dataset_pulls")
        ),
        sa.PrimaryKeyConstraint("job_id", "field", name=op.f("pk_job_dataset_pulls")),
    )
    with op.batch_alter_table("job_dataset_pulls", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_job_dataset_pulls_pull_id"), ["pull_id"], unique=False)


def downgrade() -> None:
    """What was fetched stays as files; jobs that wait for a dataset fail, for the older release could not fetch it."""
    waits = "dataset_id IS NULL AND kind = 'training'"
    over = "('succeeded', 'failed', 'cancelled')"
    op.execute(f"UPDATE jobs SET state = 'failed', reason = 'input_deleted' WHERE {waits} AND state NOT IN {over}")
    op.execute(f"UPDATE jobs SET dataset_id = '' WHERE {waits}")
    op.drop_table("job_dataset_pulls")
    op.drop_table("dataset_pulls")
    with op.batch_alter_table("models", schema=None) as batch_op:
        batch_op.drop_column("secret")
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.drop_column("commit")
        batch_op.drop_column("source")
