"""The thread that writes to the database, and what it looks after besides."""
