"""Curation: one module a check, all of one shape. Records in, (kept, rejected) out."""

from tasks.curate.run import Context, curate

__all__ = ["Context", "curate"]
