"""What a network costs on a device: latency tables, the profiler that makes them, and memory."""
