"""What joins ccflare with a day's work: a client's environment and its settings, and the service."""
