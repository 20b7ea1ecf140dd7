"""The report of a retrain: one HTML file that says what was decided, from which numbers, on which rows."""
