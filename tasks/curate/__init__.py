"""Curation: one module a check, all of one shape. Records in, (kept, rejected) out."""
