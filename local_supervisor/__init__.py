"""A local substitute for the remote Supervisor API: the same contract over HTTP, in a separate process."""
