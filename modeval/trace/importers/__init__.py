"""Importers: one file for each family of foreign formats, and the table of them all."""
