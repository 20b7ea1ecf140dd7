"""A person's look at doubtful rows: the queue, the decisions, and what they make of the rows."""
