"""The app around :mod:`databricks_supervisor`: settings, Studio entry, command line."""
