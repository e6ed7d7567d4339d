"""Noise schedules: timesteps and the step rule, as pure functions of the scheduler config."""
