"""Who may ask: addresses, client keys, browser pages, rates, budgets, the second factor."""
