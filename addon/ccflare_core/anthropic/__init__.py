"""Anthropic's API: paths, requests, answers, limits, prices, tokens: all that would change if the API changed."""
