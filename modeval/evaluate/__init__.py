"""Evaluating trained models on their own tasks: losses, counts of routing, what hardening costs."""
