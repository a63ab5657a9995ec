"""jobs keep the body in OpenAI's shape that they were made from.

Revision: 0007, after: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("request", sa.JSON(), nullable=True))


def downgrade() -> None:
    """The jobs stay, as if they had been posted in our own shape."""
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("request")
