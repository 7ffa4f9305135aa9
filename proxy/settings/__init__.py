"""How settings are read: the file, the names, the types, and what types cannot say."""
