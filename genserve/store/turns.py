"""Who is next: start-time fair queueing between owners, under priorities that age.

Every waiting task has a rank; the lowest is next, and one index gives the order:

    turn = max(the lane's queue time, the owner's last turn + cost / weight)      at insert
    rank = turn + max(0, priority × ageing_s - seconds waited)                    priority > 0
    rank = turn + priority × ageing_s                                             priority <= 0

A lane's queue time is the latest turn that was given to a worker: it moves with the work and not
with the clock, so it does not matter how fast the machine is, how well costs are guessed, or
whether the clock jumps (docs/decisions/0006-fair-order.md says what the clock would do). Costs are
seconds of work. This is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996).

What is promised, for the order in which tasks are given out (warmth may add its own, published
bound, see core/policy.py; a task that was put back keeps its rank):

- Fair shares: while two owners both have tasks of one priority waiting and nothing else is in
  the lane, the work given to each, divided by its weight, differs by at most 2 × the largest
  cost / weight, over any stretch of time.
- No starvation: tasks of priority q that another owner inserts after a task was, and that still
  go before it, are at most (rank - q × ageing_s - queue time then) × weight + the largest cost
  of work, however much that owner asks for. And a task with a priority above 0 moves up by one
  for each ageing_s that it waits, until it stands as if it had priority 0 (`age`).
- No inversion: a task goes before a more urgent one, whose owner has nothing else waiting, only
  if the queue time that passed between their inserts, plus the seconds that it waited (counted
  while its priority is above 0), is at least the difference of their priorities × ageing_s.
- Limits are exact: counted in the rows that give the turn, locked together with them.

A task that is cancelled while it waits has been charged for: its place was taken.
"""

from math import ceil

from sqlalchemy import Connection, Double, Integer, bindparam, case, select, text, update

from genserve.config import Queue
from genserve.errors import OwnerQueueFull, QueueFull
from genserve.store.prepared import Prepared
from genserve.store.schema import lanes, owners, shares, tasks
from genserve.store.upserts import per_database

LONGEST_RETRY_S = 60.0
NO_TURN_YET = -1e15
"""The last turn of an owner that never had one: long ago."""

_LANE = lanes.c.name == bindparam("b_lane")
_SHARE = (shares.c.lane == bindparam("b_lane")) & (shares.c.owner == bindparam("b_owner"))
_STEP = bindparam("b_step", type_=Integer)
_LIMIT = bindparam("b_limit", type_=Integer)
_QUEUE_TIME = bindparam("b_queue_time", type_=Double)
_TURN = bindparam("b_turn", type_=Double)
_NEXT_TURN = shares.c.turn + bindparam("b_cost", type_=Double) / (
    select(owners.c.weight).where(owners.c.id == shares.c.owner).scalar_subquery()
)

_JOIN_LANE = Prepared(
    update(lanes)
    .where(_LANE, lanes.c.waiting < _LIMIT)
    .values(waiting=lanes.c.waiting + 1)
    .returning(lanes.c.queue_time)
)
_JOIN_SHARE = Prepared(
    update(shares)
    .where(_SHARE, shares.c.waiting < _LIMIT)
    .values(
        waiting=shares.c.waiting + 1,
        turn=case((_NEXT_TURN > _QUEUE_TIME, _NEXT_TURN), else_=_QUEUE_TIME),
    )
    .returning(shares.c.turn)
)
_COUNT_LANE = update(lanes).where(_LANE).values(waiting=lanes.c.waiting + _STEP)
_COUNT_SHARE = update(shares).where(_SHARE).values(waiting=shares.c.waiting + _STEP)
_SERVE_LANE = (
    update(lanes)
    .where(_LANE)
    .values(
        waiting=lanes.c.waiting - 1,
        queue_time=case((lanes.c.queue_time < _TURN, _TURN), else_=lanes.c.queue_time),
    )
)
_LANE_EXISTS = select(lanes.c.name).where(_LANE)
_SHARE_EXISTS = select(shares.c.owner).where(_SHARE)
_NEW_LANE = per_database(lambda insert: insert(lanes).on_conflict_do_nothing())
_NEW_OWNER = per_database(lambda insert: insert(owners).on_conflict_do_nothing())
_NEW_SHARE = per_database(lambda insert: insert(shares).on_conflict_do_nothing())

_AGEING = bindparam("b_ageing", type_=Double)
_WAITED = bindparam("b_now", type_=Double) - tasks.c.created_at
_AGED_RANK = tasks.c.turn + case(
    (tasks.c.priority * _AGEING > _WAITED, tasks.c.priority * _AGEING - _WAITED), else_=0.0
)
_AGE = (
    update(tasks)
    .where(text("state = 'pending' AND priority > 0"), tasks.c.rank > _AGED_RANK)
    .values(rank=_AGED_RANK)
)


def join(
    conn: Connection, *, lane: str, owner: str, cost_s: float, now: float, queue: Queue
) -> float:
    """Count a new task in and give it its turn.

    Raises `QueueFull` and `OwnerQueueFull`.
    """
    retry_after_s = min(max(1.0, float(ceil(cost_s))), LONGEST_RETRY_S)
    where = {"b_lane": lane, "b_limit": queue.max_tasks}
    row = _JOIN_LANE.run(conn, where).fetchone()
    if row is None:
        if conn.execute(_LANE_EXISTS, {"b_lane": lane}).first() is not None:
            raise QueueFull(limit=queue.max_tasks, retry_after_s=retry_after_s)
        conn.execute(_NEW_LANE[conn.dialect.name], {"name": lane})
        row = _JOIN_LANE.run(conn, where).fetchone()
    mine = {
        "b_lane": lane,
        "b_owner": owner,
        "b_limit": queue.max_per_owner,
        "b_queue_time": row[0],
        "b_cost": cost_s,
    }
    row = _JOIN_SHARE.run(conn, mine).fetchone()
    if row is None:
        if conn.execute(_SHARE_EXISTS, {"b_lane": lane, "b_owner": owner}).first() is not None:
            raise OwnerQueueFull(limit=queue.max_per_owner, retry_after_s=retry_after_s)
        conn.execute(_NEW_OWNER[conn.dialect.name], {"id": owner, "created_at": now})
        new = {"lane": lane, "owner": owner, "turn": NO_TURN_YET}
        conn.execute(_NEW_SHARE[conn.dialect.name], new)
        row = _JOIN_SHARE.run(conn, mine).fetchone()
    return float(row[0])


def rank(turn: float, priority: int, queue: Queue) -> float:
    """A new task's rank."""
    return turn + priority * queue.ageing_s


def count(conn: Connection, *, lane: str, owner: str, step: int) -> None:
    """Tasks were put back (`step` > 0) or ended while they waited (`step` < 0)."""
    where = {"b_lane": lane, "b_owner": owner, "b_step": step}
    conn.execute(_COUNT_LANE, where)
    conn.execute(_COUNT_SHARE, where)


def serve(conn: Connection, *, lane: str, owner: str, turn: float) -> None:
    """A worker takes a task: count it out, and the lane's queue time reaches its turn."""
    conn.execute(_SERVE_LANE, {"b_lane": lane, "b_turn": turn})
    conn.execute(_COUNT_SHARE, {"b_lane": lane, "b_owner": owner, "b_step": -1})


def age(conn: Connection, *, now: float, queue: Queue) -> int:
    """Move waiting tasks of a priority above 0 up, by as much as they have waited.

    To be called now and then (each minute is plenty). Returns how many moved.
    """
    return conn.execute(_AGE, {"b_now": now, "b_ageing": queue.ageing_s}).rowcount
