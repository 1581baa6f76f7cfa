"""Units of a serial core, for the smallest devices: the same instructions, one after the other."""
