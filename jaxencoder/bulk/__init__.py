"""Bulk embedding: files of any size to a folder of shards, in one process or on an engine, resumable."""
