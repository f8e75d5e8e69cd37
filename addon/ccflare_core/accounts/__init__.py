"""The accounts: which one serves, which ones rest and until when, and how their tokens stay alive."""
