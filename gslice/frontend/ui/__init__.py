"""The node's web page: what it shows comes from the daemon, by the control API that the CLI uses."""
