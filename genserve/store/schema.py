"""The tables. Times are UTC seconds (float); documents are JSON text; one shape on every database.

`tasks` is the narrow hot table: what ordering and claiming read. What an attempt did lies in
`attempts`, what came out of it in `images`.
"""

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

owners = Table(
    "owners",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("weight", Double, nullable=False, server_default="1"),
    # Virtual time: where the owner's next task is placed, so that shares are fair.
    Column("virtual_time", Double, nullable=False, server_default="0"),
    Column("created_at", Double, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("id", String(32), nullable=False, index=True),
    Column("ciphertext", LargeBinary, nullable=False),
    Column("name", String(200), nullable=False, index=True),
    Column("owner", String(200), nullable=False),
    Column("permissions", String(100), nullable=False),
    # issued, imported, or the variable that declares it.
    Column("source", String(200), nullable=False),
    Column("priority_floor", Integer, nullable=False, server_default="0"),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("last_used_at", Double),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("key_id", String(32), nullable=False),
    Column("dialect", String(32), nullable=False),
    Column("state", String(12), nullable=False),
    Column("lane", String(64), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("rank", Double, nullable=False),
    # Model and LoRA set, as `policy` compares them with what a worker holds.
    Column("warm_key", String(400), nullable=False),
    # How often a later task was taken first because it was warm.
    Column("passed", Integer, nullable=False, server_default="0"),
    Column("attended", Boolean, nullable=False),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("attempt_token", String(36)),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("asked", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("result", Text),
    Column("error", Text),
    Index(
        "tasks_waiting",
        "lane",
        "rank",
        "id",
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
    Index(
        "tasks_waiting_since",
        "created_at",
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
    Index("tasks_by_owner", "owner", "id"),
    Index("tasks_by_state", "state", "id"),
    Index("tasks_finished", "finished_at"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("token", String(36), nullable=False),
    Column("backend", String(64), nullable=False),
    Column("worker", String(64), nullable=False),
    Column("remote_id", String(200)),
    Column("epoch", Integer, nullable=False),
    Column("resolved", Text, nullable=False),
    Column("outcome", String(12)),
    Column("error", Text),
    Column("degraded", Text),
    Column("cost", Double),
    Column("started_at", Double, nullable=False),
    Column("finished_at", Double),
)

blobs = Table(
    "blobs",
    metadata,
    # Counted files of the blob folder: deleted from disk when nothing refers to them any more.
    Column("sha256", String(64), primary_key=True),
    Column("media_type", String(32), nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("refs", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
)

images = Table(
    "images",
    metadata,
    Column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("sha256", ForeignKey("blobs.sha256"), nullable=False, index=True),
    Column("seed", Double, nullable=False),
)

inputs = Table(
    "inputs",
    metadata,
    Column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("sha256", ForeignKey("blobs.sha256"), nullable=False, index=True),
)

usage = Table(
    "usage",
    metadata,
    Column("owner", String(200), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("tasks", Integer, nullable=False),
    Column("images", Integer, nullable=False),
    Column("pixel_steps", Double, nullable=False),
    Column("money", Double, nullable=False, server_default="0"),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key_digest", String(64), primary_key=True),
    Column("value", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("task_id", String(36), nullable=False),
    Column("created_at", Double, nullable=False, index=True),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
    Column("kind", String(64), nullable=False),
    Column("payload", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", Double, nullable=False, index=True),
    UniqueConstraint("task_id", "kind"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("expires_at", Double, nullable=False),
)
