"""Recorded bodies: cut into blocks, sealed, put together again, redacted, searched, exported."""
