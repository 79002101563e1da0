"""Recording live models: what their routers chose, for which label."""
