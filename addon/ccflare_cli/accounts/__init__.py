"""`scripts/accounts.py`: accounts, logins, imports."""
