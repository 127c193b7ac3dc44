"""A schedule for a model in minutes: errors of reuse measured, schedules planned and tried."""
