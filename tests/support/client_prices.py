"""The prices that Claude Code 2.1.332 holds, of the models that costs are compared for."""

CLIENT_PRICES = {
    "claude-haiku-4-5": (1, 5, 1.25, 2, 0.1),
    "claude-haiku-5-5": (0.1, 0.5, 0.125, 0.2, 0.01),
    "claude-sonnet-4-6": (3, 15, 3.75, 6, 0.3),
    "claude-sonnet-5": (2, 10, 2.5, 4, 0.2),
    "claude-sonnet-5-5": (2, 10, 2.5, 4, 0.1),
    "claude-opus-4-8": (5, 25, 6.25, 10, 0.5),
    "claude-opus-5-5": (4, 20, 5, 8, 0.2),
    "claude-fable-5-1": (10, 50, 12.5, 20, 0.25),
    "claude-fable-5-2": (8, 40, 10, 16, 0.2),
}
"""USD per million: input, output, cache write for 5 minutes, for 1 hour, cache read."""
