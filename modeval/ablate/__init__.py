"""Interventions on models with routers: which modules matter, what can go, and was it foreseen."""
