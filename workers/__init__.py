"""Runs jobs: the only room that knows both jobs and models."""
