"""The report of a retrain as one HTML file."""
