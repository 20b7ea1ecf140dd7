"""Curation: one module a check, all of one shape. Records in, (kept, rejected) out."""

from tasks.curate.context import Context
from tasks.curate.run import curate

__all__ = ["Context", "curate"]
