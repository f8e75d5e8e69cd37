"""`scripts/top.py`: accounts and requests as they go on, in the terminal."""
