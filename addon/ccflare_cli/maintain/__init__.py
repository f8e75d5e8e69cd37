"""`scripts/maintain.py`: retention, backups, exports."""
