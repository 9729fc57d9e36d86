"""What the parts share, without knowledge of the domain: strict JSON, files, schemas, words for people."""
