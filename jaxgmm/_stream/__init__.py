"""Rows that come in batches, again and again: data that no memory holds.

A `Stream` says where the batches come from (`sources`). `survey` is what the first pass over them
finds out, and `batches` makes them, all of one length, each while the one before computes. A new
kind of source is a function in `sources` and a line in `reader_of`.
"""
