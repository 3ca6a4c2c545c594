"""The daemon: desired state, the control API and the composition root of the node."""
