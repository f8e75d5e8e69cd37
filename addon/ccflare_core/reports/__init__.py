"""Questions to the record and their answers as plain values: traffic, limits, forecasts, the prompt cache."""
