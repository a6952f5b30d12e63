// Nothing: a target that only holds precompiled headers (rooms.cmake) must have a source.
