"""What a run looks like: its page, its figures."""
