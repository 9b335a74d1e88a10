"""Several server processes on one database, killed, stopped and raced."""
