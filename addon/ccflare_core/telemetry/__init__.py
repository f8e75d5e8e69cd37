"""What OpenTelemetry gets of finished exchanges: its names for them, spans and metrics, and the way to a receiver."""
