"""`scripts/mcp.py`: one's own record for a model that asks for it, by the Model Context Protocol (MCP) over stdio."""
