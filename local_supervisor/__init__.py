"""A local stand-in of the remote Supervisor API: the same contract over HTTP, as a process of its own."""
