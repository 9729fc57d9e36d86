"""The pack: a directory that a stranger can check without its maker, without the models and without network."""
