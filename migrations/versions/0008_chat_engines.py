"""the engines that chat, and how the API reaches them.

Revision: 0008, after: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chat_engines",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("team", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=True),
        sa.Column("address", sa.String(), nullable=True),
        sa.Column("port", sa.BigInteger(), nullable=True),
        sa.Column("token", sa.String(), nullable=True),
        sa.Column("fingerprint", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_chat_engines_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", "team", name=op.f("pk_chat_engines")),
    )
    with op.batch_alter_table("chat_engines", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_chat_engines_job_id"), ["job_id"], unique=False)


def downgrade() -> None:
    """Engines that run go on until they are idle; nobody finds them."""
    op.drop_table("chat_engines")
