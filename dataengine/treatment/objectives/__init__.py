"""The objectives of treatment: scalars to minimise, which are summed."""
