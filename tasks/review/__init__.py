"""A person's look at doubtful rows: the queue, the decisions, and what they make of the rows."""

from tasks.review.decisions import Decision, Decisions, apply
from tasks.review.queue import Doubt, looked_at, queue, rank

__all__ = ["Decision", "Decisions", "Doubt", "apply", "looked_at", "queue", "rank"]
