"""`scripts/doctor.py`: is this installation well, and what to do if not."""
