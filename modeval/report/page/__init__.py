"""What stands on the HTML page: panels, charts, maps, courses, tokens."""
