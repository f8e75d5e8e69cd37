"""The database's owner, and one module for each kind of thing that it keeps."""
