"""Several workers that serve one port, for machines with more than one core: `--workers`."""
