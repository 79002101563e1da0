"""The command line: a command per file. Only this layer prints, exits or reads the environment."""
