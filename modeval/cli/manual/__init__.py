"""The manual: topics that are longer than a command's help, and a reference of everything."""
