"""`scripts/keys.py`: data keys, client keys, the second factor."""
