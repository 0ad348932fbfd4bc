"""What a training run tells about itself: throughput, experiment loggers, and a profiler's trace."""
