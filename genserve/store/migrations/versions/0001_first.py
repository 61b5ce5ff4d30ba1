"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ID = sa.String(36)
WAITING = sa.text("state = 'pending'")
AGEING = sa.text("state = 'pending' AND priority > 0")
OPEN = sa.text("finished_at IS NULL")
ENDED = sa.text("finished_at IS NOT NULL")


def upgrade() -> None:
    """Make every table."""
    _owners_and_keys()
    _queue()
    _tasks()
    _blobs()
    _books()


def _owners_and_keys() -> None:
    op.create_table(
        "owners",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("weight", sa.Double, nullable=False, server_default="1"),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "keys",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("permissions", sa.String(100), nullable=False),
        sa.Column("source", sa.String(200), nullable=False),
        sa.Column("priority_floor", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("last_used_at", sa.Double),
    )
    op.create_index("ix_keys_id", "keys", ["id"])
    op.create_index("ix_keys_name", "keys", ["name"])
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("ciphertext", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )


def _queue() -> None:
    op.create_table(
        "lanes",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("waiting", sa.Integer, nullable=False, server_default="0"),
        sa.Column("queue_time", sa.Double, nullable=False, server_default="0"),
    )
    op.create_table(
        "shares",
        sa.Column("lane", sa.String(64), sa.ForeignKey("lanes.name"), primary_key=True),
        sa.Column("owner", sa.String(200), sa.ForeignKey("owners.id"), primary_key=True),
        sa.Column("waiting", sa.Integer, nullable=False, server_default="0"),
        sa.Column("turn", sa.Double, nullable=False, server_default="0"),
    )


def _tasks() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("owner", sa.String(200), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("dialect", sa.String(32), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("lane", sa.String(64), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("turn", sa.Double, nullable=False),
        sa.Column("rank", sa.Double, nullable=False),
        sa.Column("warm_key", sa.Text, nullable=False),
        sa.Column("passed", sa.Integer, nullable=False, server_default="0"),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempt_token", sa.String(36)),
        sa.Column("crashes", sa.Integer, nullable=False, server_default="0"),
        sa.Column("request_version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("asked", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("waiting_since", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
    )
    _partial_index("tasks_waiting", ["lane", "rank", "id"], WAITING)
    _partial_index("tasks_waiting_since", ["waiting_since"], WAITING)
    _partial_index("tasks_ageing", ["created_at"], AGEING)
    _partial_index("tasks_finished", ["finished_at"], ENDED)
    op.create_index("tasks_by_owner", "tasks", ["owner", "id"])
    _partial_index("tasks_open", ["state", "id"], OPEN)
    _partial_index("tasks_ended", ["state", "id"], ENDED)
    op.create_table(
        "attempts",
        sa.Column("task_id", ID, _with_task(), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("token", sa.String(36), nullable=False),
        sa.Column("backend", sa.String(64), nullable=False),
        sa.Column("worker", sa.String(64), nullable=False),
        sa.Column("remote_id", sa.String(200)),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("resolved", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(12)),
        sa.Column("error", sa.Text),
        sa.Column("degraded", sa.Text),
        sa.Column("cost", sa.Double),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
    )


def _with_task() -> sa.ForeignKey:
    return sa.ForeignKey("tasks.id", ondelete="CASCADE")


def _partial_index(name: str, columns: list[str], where: sa.TextClause) -> None:
    op.create_index(name, "tasks", columns, sqlite_where=where, postgresql_where=where)


def _blobs() -> None:
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("media_type", sa.String(32), nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("refs", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("ix_blobs_size_bytes", "blobs", ["size_bytes"])
    op.create_table(
        "images",
        sa.Column("task_id", ID, _with_task(), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("sha256", sa.String(64), sa.ForeignKey("blobs.sha256"), nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_images_sha256", "images", ["sha256"])
    op.create_table(
        "inputs",
        sa.Column("task_id", ID, _with_task(), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("sha256", sa.String(64), sa.ForeignKey("blobs.sha256"), nullable=False),
    )
    op.create_index("ix_inputs_sha256", "inputs", ["sha256"])


def _books() -> None:
    op.create_table(
        "usage",
        sa.Column("owner", sa.String(200), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        sa.Column("tasks", sa.Integer, nullable=False),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("pixel_steps", sa.Double, nullable=False),
        sa.Column("money", sa.Double, nullable=False, server_default="0"),
    )
    op.create_table(
        "idempotency",
        sa.Column("key_digest", sa.String(64), primary_key=True),
        sa.Column("value", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("task_id", sa.String(36), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("ix_idempotency_task_id", "idempotency", ["task_id"])
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"])
    op.create_table(
        "outbox",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("task_id", ID, _with_task(), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.UniqueConstraint("task_id", "kind", name="outbox_once"),
    )
    op.create_index("ix_outbox_next_at", "outbox", ["next_at"])
    op.create_table(
        "leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
