"""The API under /ccflare/api/v1/: a table of endpoints, what each takes and gives, and the document made of that."""
