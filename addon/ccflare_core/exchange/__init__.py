"""One exchange: the decisions between its attempts, and what is kept of it."""
