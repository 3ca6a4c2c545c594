"""Downloads, in a process of their own: their libraries are large, and their servers not ours."""
