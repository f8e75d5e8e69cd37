"""`scripts/doctor.py`: checks the security and health of this installation."""
