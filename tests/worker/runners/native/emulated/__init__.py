"""What runs the C code for CPUs that this machine does not have."""
