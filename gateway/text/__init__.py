"""Characters and tokens: templates, tokenizing, detokenizing, stop sequences.

It must not know requests, callers or workers.
"""
