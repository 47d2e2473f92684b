"""Token merging (ToMe): the matching of similar tokens, merging before a module and unmerging behind it."""
