"""Workers forked off a process that imports torch from the first moment of a session on."""
