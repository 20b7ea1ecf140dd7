"""Curation: one module per check, all of one shape: records in, (kept, rejected) out."""
