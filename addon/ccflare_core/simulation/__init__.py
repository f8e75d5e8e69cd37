"""What the recorded traffic would have met with other accounts, rules or settings, on a clock of its own.

`recorded` reads the past as turns, `capacities` fits the accounts' limit windows to their readings, and `simulator`
sends the turns through the real pool, rules, limits and exchanges to an upstream that is made of both.
"""
