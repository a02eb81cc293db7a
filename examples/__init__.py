"""Programs that show the service at work. `make demo` runs `examples.demo`."""
