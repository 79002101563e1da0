"""How sure is a number, and could chance have made it? Units, tests, intervals."""
