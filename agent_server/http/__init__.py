"""The HTTP side of the app: MLflow's agent server in front of the graph."""
