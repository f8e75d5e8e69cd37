"""`scripts/stats.py`: figures from the record, as tables and plots."""
