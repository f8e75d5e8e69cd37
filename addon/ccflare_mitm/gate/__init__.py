"""Whether a request may go on, and the pages that are answered here."""
