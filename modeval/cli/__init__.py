"""The command line: one command per file. Only this layer prints, exits or reads the environment."""
