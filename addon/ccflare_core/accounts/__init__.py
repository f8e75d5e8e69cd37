"""The accounts: which one serves, which are cooling and until when, and how their tokens are kept fresh."""
