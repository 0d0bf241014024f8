"""Where the platform keeps things: Redis adapters with their Lua files, the node's journal, the in-memory twins."""
