"""Pure decisions: no I/O, no clock of their own. State and the time are handed in."""
