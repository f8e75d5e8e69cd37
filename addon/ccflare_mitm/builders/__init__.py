"""The parts of a running proxy, built room by room from the bottom up: each gets what stands below it.

None of them does anything yet: the app starts the writer and the tasks, and from then on events come in.
"""
