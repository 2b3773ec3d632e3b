"""What stages and jobs run on: context, models, progress, devices."""
