"""The audit log: a chain of signed rows, its second copy, and the check of both."""
