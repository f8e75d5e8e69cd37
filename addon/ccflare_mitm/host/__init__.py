"""What is declared to mitmproxy, checked in it and changed of it."""
