"""The program as functions: one behind each command, which is a thin printer around it.

They read files and folders, go through all rooms of the house, and return dataclasses. Nothing is
printed here: what is worth telling while they work goes to a function that the caller gives.
"""
