"""Bytes at rest: local files, object stores, the files of a server."""
