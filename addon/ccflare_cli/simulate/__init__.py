"""`scripts/simulate.py`: what the recorded traffic would have met with other accounts, rules or settings."""
