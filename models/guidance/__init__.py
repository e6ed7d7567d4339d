"""Guidance: how several predictions of one step become one."""
