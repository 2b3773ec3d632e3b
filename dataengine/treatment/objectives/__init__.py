"""The objectives of treatment, one file each: scalars to minimise, which are summed."""
