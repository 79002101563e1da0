"""Models and scorers that a file of the user's defines, as parts of a cohort."""
