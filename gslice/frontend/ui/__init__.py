"""The node's web page; what it shows comes by the control API that the CLI uses."""
