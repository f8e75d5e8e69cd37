"""`scripts/audit.py`: the audit log, and what to do after an incident."""
