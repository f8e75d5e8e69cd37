"""What mitmweb and the console show of a flow."""
