"""Secrets: how they are sealed, where the key comes from, what a secret looks like."""
