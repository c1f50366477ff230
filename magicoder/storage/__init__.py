"""Files on disk: the output-directory contract, atomic writing, the hub, rejected rows."""
