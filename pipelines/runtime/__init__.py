"""The runtime of stages and jobs: context, models, progress, devices."""
