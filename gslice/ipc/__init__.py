"""What crosses process borders: messages over Unix sockets, and segments."""
