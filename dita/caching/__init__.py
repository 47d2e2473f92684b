"""The engine: attaches to one transformer, executes a plan, reports what it did, and detaches without a trace."""
