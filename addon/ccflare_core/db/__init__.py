"""The database's engines, tables and migrations. The rooms above decide what is stored."""
