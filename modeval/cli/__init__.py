"""The command line: one command per file. The only layer that prints, exits or reads the environment."""
