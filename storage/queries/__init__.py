"""Read models: what pages and commands show, one module per noun."""
