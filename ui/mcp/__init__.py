"""The MCP server: tools with which an assistant curates images and launches trainings and treatments."""
