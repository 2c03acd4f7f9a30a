"""What every process is made of, whatever its work: settings, clock, logs, lifecycle."""
