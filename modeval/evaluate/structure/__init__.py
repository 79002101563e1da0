"""Structure without routing: do parts of a network cluster, and do clusters do anything?"""
