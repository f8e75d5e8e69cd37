"""The options: what there is, where values come from, and which of them are unsafe."""
