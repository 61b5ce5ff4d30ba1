"""The tables. Times are UTC seconds (float); documents are JSON text; one shape on every database.

`tasks` is the narrow hot table: what ordering and claiming read. What an attempt did lies in
`attempts`, what came out of it in `images`.
"""

from sqlalchemy import (
    BigInteger,
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
    # Share of the machine, relative to other owners.
    Column("weight", Double, nullable=False, server_default="1"),
    Column("created_at", Double, nullable=False),
)

lanes = Table(
    "lanes",
    metadata,
    Column("name", String(64), primary_key=True),
    # How many tasks wait: kept exact by every move, so that the limit costs one row.
    Column("waiting", Integer, nullable=False, server_default="0"),
    # The latest turn that was given out (see turns.py).
    Column("queue_time", Double, nullable=False, server_default="0"),
)

shares = Table(
    "shares",
    metadata,
    Column("lane", ForeignKey("lanes.name"), primary_key=True),
    Column("owner", ForeignKey("owners.id"), primary_key=True),
    Column("waiting", Integer, nullable=False, server_default="0"),
    # The turn of the owner's newest task (see turns.py).
    Column("turn", Double, nullable=False, server_default="0"),
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

secrets = Table(
    "secrets",
    metadata,
    # The server's own random secrets, encrypted under the master key: they outlive its rotation.
    Column("name", String(64), primary_key=True),
    Column("ciphertext", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
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
    # The owner's place among equals, and with the priority the place among all (see turns.py).
    Column("turn", Double, nullable=False),
    Column("rank", Double, nullable=False),
    # Model and LoRA set, as `policy` compares them with what a worker holds.
    Column("warm_key", Text, nullable=False),
    # How often a later task was taken first because it was warm.
    Column("passed", Integer, nullable=False, server_default="0"),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("attempt", Integer, nullable=False, server_default="0"),
    # Fences off late results: only the holder of the newest token moves a claimed task.
    Column("attempt_token", String(36)),
    Column("crashes", Integer, nullable=False, server_default="0"),
    # Which form of GenerationRequest the documents of this task and its attempts have.
    Column("request_version", Integer, nullable=False, server_default="1"),
    Column("asked", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    # Since when it waits: created, or put back.
    Column("waiting_since", Double, nullable=False),
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
        "waiting_since",
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
    Index(
        "tasks_ageing",
        "created_at",
        sqlite_where=text("state = 'pending' AND priority > 0"),
        postgresql_where=text("state = 'pending' AND priority > 0"),
    ),
    Index("tasks_by_owner", "owner", "id"),
    # Two halves, so that SQLite does not prefer it for what the waiting tasks' indexes are for.
    Index(
        "tasks_open",
        "state",
        "id",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
    Index(
        "tasks_ended",
        "state",
        "id",
        sqlite_where=text("finished_at IS NOT NULL"),
        postgresql_where=text("finished_at IS NOT NULL"),
    ),
    Index(
        "tasks_finished",
        "finished_at",
        sqlite_where=text("finished_at IS NOT NULL"),
        postgresql_where=text("finished_at IS NOT NULL"),
    ),
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
    Column("size_bytes", Integer, nullable=False, index=True),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    # How many rows of images and inputs name it.
    Column("refs", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
)

images = Table(
    "images",
    metadata,
    Column("task_id", ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("sha256", ForeignKey("blobs.sha256"), nullable=False, index=True),
    Column("seed", BigInteger, nullable=False),
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
    Column("task_id", String(36), nullable=False, index=True),
    Column("created_at", Double, nullable=False, index=True),
)

key_requests = Table(
    "key_requests",
    metadata,
    # The same for requests that issue API keys: whose, its value, and the digest of the new key.
    Column("key_digest", String(64), primary_key=True),
    Column("value", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("issued", String(64), nullable=False),
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
    UniqueConstraint("task_id", "kind", name="outbox_once"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("expires_at", Double, nullable=False),
)
