"""The stream layer: one request, its upstream attempts, its deadlines."""
