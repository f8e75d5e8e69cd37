"""The database's engines, tables and migrations. Who decides what stands in it are the rooms above."""
