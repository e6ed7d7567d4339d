"""Measure methods: one on one clip (`measure`), or all against the exact edits of the miniature world (`suite`)."""
